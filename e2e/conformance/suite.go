package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// suiteModule is where the suite's own module is, apart from the workspace so that nothing of ours is built with what it requires.
const suiteModule = "e2e/conformance/suite"

// profiles are what a mesh can conform to; their core features come with them.
const profiles = "MESH-HTTP,MESH-GRPC"

// features are all of a mesh that aren't core, and then those of routes that tests of meshes ask for, which no profile of a mesh counts.
var features = []string{
	"MeshClusterIPMatching", "MeshConsumerRoute", "MeshHTTPRouteBackendRequestHeaderModification", "MeshHTTPRouteNamedRouteRule",
	"MeshHTTPRouteQueryParamMatching", "MeshHTTPRouteRedirectPath", "MeshHTTPRouteRedirectPort", "MeshHTTPRouteRewritePath", "MeshHTTPRouteSchemeRedirect",

	"HTTPRouteResponseHeaderModification", "HTTPRouteParentRefPort",
	"HTTPRoute303RedirectStatusCode", "HTTPRoute307RedirectStatusCode", "HTTPRoute308RedirectStatusCode",
}

// suite is the program of it.
type suite struct {
	source string // folder of the suite's own module, with its documents
	dir    string // what is made for a run
}

func buildSuite(ctx context.Context) (*suite, error) {
	say("building the suite; the first time its libraries take two minutes")
	dir, err := os.MkdirTemp("", "tulle-conformance-")
	if err != nil {
		return nil, err
	}
	s := &suite{dir: dir}
	if _, err = suiteGo(ctx, "test", "-c", "-o", s.program(), "."); err == nil {
		// What it is built from has been downloaded by now, else nobody knows where it is.
		s.source, err = suiteGo(ctx, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api/conformance")
		s.source = strings.TrimSpace(s.source)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func suiteGo(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = suiteModule, append(os.Environ(), "GOWORK=off")
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], suiteModule, err, complaint.String())
	}
	return out.String(), nil
}

func (s *suite) program() string { return filepath.Join(s.dir, "suite") }

func (s *suite) close() { os.RemoveAll(s.dir) }

// run runs all tests in the fabric, and fails with them. The report is written even so.
func (s *suite) run(ctx context.Context, c *cluster.Cluster, o options) error {
	report, err := filepath.Abs(o.report)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(logs, "suite.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.Command(ctx, append(append([]string{s.program()}, arguments(report, o.version)...), o.suite...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = log
	if err := c.Do(cmd.Start); err != nil {
		return err
	}
	shown := show(io.TeeReader(out, log))
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the suite: %w; all that it says is in %s", err, log.Name())
	}
	return shown
}

func arguments(report, version string) []string {
	return []string{
		"-test.v", "-test.timeout=30m",
		"-conformance-profiles=" + profiles, "-supported-features=" + strings.Join(features, ","),
		"-namespace-labels=istio.io/dataplane-mode=ambient,istio.io/use-waypoint=namespace",
		"-cleanup-base-resources=false", // the cluster ends, or stays for the next run
		"-report-output=" + report,
		"-organization=tulle-mesh", "-project=tulle", "-url=https://github.com/tulle-mesh/tulle", "-version=" + version,
		"-contact=https://github.com/tulle-mesh/tulle/issues",
	}
}

// outcome matches how a test of the suite ended.
var outcome = regexp.MustCompile(`^    --- (PASS|FAIL): `)

// show prints the outcomes of tests, out of all that the suite says.
func show(out io.Reader) error {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if outcome.MatchString(line) {
			fmt.Print(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

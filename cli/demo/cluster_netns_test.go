package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// bareSpec is two nodes without a mesh: a caller on the first, a backend on each, and one service over both.
func bareSpec(t *testing.T) Spec {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, so not in short mode")
	}
	backend := func(name, node string) Pod {
		return Pod{
			Name: name, Namespace: "shop", Account: "backend", Node: node, Labels: map[string]string{"app": "backend"},
			Command: []string{program, "app", "backend", "--version", name},
		}
	}
	return Spec{
		Name: fmt.Sprintf("test%d", os.Getpid()), Dir: filepath.Join(t.TempDir(), "run"), Programs: Programs{Tulle: program}, Bare: true,
		Nodes:    []string{"node1", "node2"},
		Pods:     []Pod{{Name: "caller", Namespace: "shop", Account: "caller", Node: "node1"}, backend("near", "node1"), backend("far", "node2")},
		Services: []Service{{Name: "backend", Namespace: "shop", Selector: map[string]string{"app": "backend"}, Ports: map[uint16]uint16{80: 8080}}},
		Say:      func(line string) { t.Log(line) },
	}
}

func up(t *testing.T, spec Spec) *Cluster {
	t.Helper()
	c, err := Up(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

// eventually asks until the program that was just started answers.
func eventually(t *testing.T, c *Cluster, place, url string) string {
	t.Helper()
	var answer string
	err := AwaitWithin(t.Context(), 10*time.Second, url, func(ctx context.Context) (err error) {
		answer, err = c.Get(ctx, place, url)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestBareClusterCarriesTraffic(t *testing.T) {
	c := up(t, bareSpec(t))
	for family := range 2 {
		near, far := netip.AddrPortFrom(c.PodAddrs("near")[family], 8080), netip.AddrPortFrom(c.PodAddrs("far")[family], 8080)
		vip := netip.AddrPortFrom(c.VIPs("backend")[family], 80)
		caller := c.PodAddrs("caller")[family].String()
		for _, to := range []netip.AddrPort{near, far} {
			if answer := eventually(t, c, "caller", "http://"+to.String()+"/"); !strings.Contains(answer, caller) {
				t.Errorf("%s doesn't see the caller's own address %s:\n%s", to, caller, answer)
			}
		}
		// One of the callers is a backend of the service, on each node, and so reaches itself too.
		for _, from := range []string{"caller", "near", "far", "node1"} {
			versions := map[string]int{}
			for range 40 {
				answer := eventually(t, c, from, "http://"+vip.String()+"/")
				versions[strings.Fields(answer)[1]]++
			}
			if versions["near"] < 5 || versions["far"] < 5 {
				t.Errorf("40 requests of %s to %s reached %v", from, vip, versions)
			}
		}
		outside := netip.AddrPortFrom(FabricAddrs()[family], 1)
		if _, err := c.Dial(t.Context(), "caller", outside); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a pod can't reach the world outside: %v", err)
		}
	}
}

func TestProgramsOfPodsSeeTheServicesNames(t *testing.T) {
	c := up(t, bareSpec(t))
	command, err := c.Command("caller", []string{"cat", "/etc/hosts"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	if want := c.VIPs("backend")[0].String() + " backend.shop backend.shop.svc.cluster.local backend\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no line %q in\n%s", want, &out)
	}
	if own, err := os.ReadFile("/etc/hosts"); err == nil && strings.Contains(string(own), "backend.shop") {
		t.Error("the machine's own hosts file changed")
	}
}

func TestCaptureFindsWhatIsReadableOnTheWire(t *testing.T) {
	c := up(t, bareSpec(t))
	far := netip.AddrPortFrom(c.PodAddrs("far")[0], 8080)
	near := netip.AddrPortFrom(c.PodAddrs("near")[0], 8080)
	eventually(t, c, "caller", "http://"+far.String()+"/")
	eventually(t, c, "caller", "http://"+near.String()+"/")
	load, err := c.StartLoad(t.Context(), "caller", "http://"+far.String()+"/", 2, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer load.Stop() // The capture ends all the same.
	watch, err := c.Watch("node1", "WORD-ABROAD", "WORD-AT-HOME")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "caller", "http://"+far.String()+"/?q=WORD-ABROAD")
	eventually(t, c, "caller", "http://"+near.String()+"/?q=WORD-AT-HOME")
	report, err := watch.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if seen := report.Seen("WORD-ABROAD"); len(seen) != 2 || seen[0].To != far || !strings.Contains(seen[0].Text, "GET /?q=WORD-ABROAD HTTP/1.1") {
		t.Errorf("want the request and the answer that repeats it, got %+v", seen)
	}
	if seen := report.Seen("WORD-AT-HOME"); len(seen) != 0 {
		t.Errorf("traffic within a node was on the link between the nodes: %+v", seen)
	}
}

func TestHeldConnectionAndLoad(t *testing.T) {
	c := up(t, bareSpec(t))
	far := netip.AddrPortFrom(c.PodAddrs("far")[0], 8080)
	eventually(t, c, "caller", "http://"+far.String()+"/")
	held, err := c.Hold(t.Context(), "caller", far, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	load, err := c.StartLoad(t.Context(), "caller", "http://"+far.String()+"/", 2, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Fresh(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Kill(t.Context(), "far"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.Done():
	case <-time.After(10 * time.Second):
		t.Error("the held connection didn't notice that its server died")
	}
	if held.Err() == nil || held.Fresh(t.Context()) == nil {
		t.Error("a broken connection counts as alive")
	}
	err = AwaitWithin(t.Context(), 10*time.Second, "requests to a dead server to be refused", func(context.Context) error {
		if _, failed := load.Count(); failed == 0 || !errors.Is(load.Err(), unix.ECONNREFUSED) {
			return fmt.Errorf("%d failed, the last with %w", failed, load.Err())
		}
		return nil
	})
	load.Stop()
	if err != nil {
		t.Error(err)
	}
}

func TestSecondStartAndCleaningAfterACrash(t *testing.T) {
	spec := bareSpec(t)
	c, err := Up(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	processes := c.Processes()
	if _, err := Up(t.Context(), spec); !errors.Is(err, ErrUp) {
		t.Errorf("second start while one runs: %v", err)
	}
	if _, err := CleanUp(t.Context(), spec.Dir); !errors.Is(err, ErrUp) {
		t.Errorf("removal while one runs: %v", err)
	}
	if err := c.Keep(); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), spec); !errors.Is(err, ErrUp) {
		t.Errorf("second start while one is kept: %v", err)
	}
	found, err := Find(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, found, "caller", "http://"+netip.AddrPortFrom(found.PodAddrs("far")[0], 8080).String()+"/")
	found.close()

	// A crash: nobody holds the lock, and the state file doesn't say that this was meant to stay.
	found.record.Kept = false
	if err := found.record.save(); err != nil {
		t.Fatal(err)
	}
	again, err := Up(t.Context(), spec)
	if err != nil {
		t.Fatalf("start after a crash: %v", err)
	}
	for _, p := range processes {
		if p.Alive() {
			t.Errorf("%s of the crashed cluster still runs", p.Name)
		}
	}
	if err := again.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, spec, again.Processes())
	if found, err := CleanUp(t.Context(), spec.Dir); found || err != nil {
		t.Errorf("removal of nothing: %v, %v", found, err)
	}
}

// Two clusters of one name in two folders would remove each other's namespaces.
func TestNamespacesOfOthersAreLeftAlone(t *testing.T) {
	first := up(t, bareSpec(t))
	spec := bareSpec(t)
	if _, err := Up(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "another demo is up") {
		t.Errorf("a second cluster of the same name: %v", err)
	}
	if _, err := os.Stat(spec.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
	eventually(t, first, "caller", "http://"+netip.AddrPortFrom(first.PodAddrs("far")[0], 8080).String()+"/")
}

func TestFailedStartLeavesNothing(t *testing.T) {
	spec := bareSpec(t)
	broken := filepath.Join(t.TempDir(), "tulle")
	if err := os.WriteFile(broken, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec.Programs.Tulle = broken
	if _, err := Up(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "start near") {
		t.Errorf("the error doesn't say what failed: %v", err)
	}
	nothingLeft(t, spec, nil)
}

func TestForeignFolderIsLeftAlone(t *testing.T) {
	spec := bareSpec(t)
	if err := os.MkdirAll(spec.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(spec.Dir, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "name another folder") {
		t.Errorf("a folder with other files: %v", err)
	}
	if _, err := CleanUp(t.Context(), spec.Dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// nothingLeft checks that a cluster has left no process, namespace, mount or file.
func nothingLeft(t *testing.T, spec Spec, processes []*Process) {
	t.Helper()
	for _, p := range processes {
		if p.Alive() {
			t.Errorf("%s still runs", p.Name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(wire.Dir, "tulle-"+spec.Name+"-*")); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), "tulle-"+spec.Name) {
		t.Errorf("mounts left: %v\n%s", err, mounts)
	}
	if _, err := os.Stat(spec.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the run folder is left: %v", err)
	}
}

// A run folder that was moved or copied says where it was: removing by it would hit whatever is there now.
func TestCopyOfARunFolderRemovesNothing(t *testing.T) {
	original, moved := t.TempDir(), t.TempDir()
	precious := filepath.Join(original, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &record{Spec: Spec{Dir: original}}
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{stateFile, lockFile} {
		data, _ := os.ReadFile(filepath.Join(original, name))
		if err := os.WriteFile(filepath.Join(moved, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := CleanUp(t.Context(), moved); err == nil || !strings.Contains(err.Error(), original) {
		t.Errorf("CleanUp of a copy: %v, want an error that names %s", err, original)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestEmptyFolderOfAUserIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if found, err := CleanUp(t.Context(), dir); found || err != nil {
		t.Errorf("CleanUp = %v, %v", found, err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

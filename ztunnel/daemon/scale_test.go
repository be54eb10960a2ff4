package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/intake"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/xds"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

const (
	worldPods = 100_000
	// The aim is 3 s, 250 MB and 1 ms. How long loading takes goes by what else the machine does, so the limit is on CPU
	// time, with room for a slower one and a busy one: a quiet one takes 2.7, 4.4 and 3.5 s.
	maxCPU    = 10 * time.Second
	maxMemory = 250 << 20
	maxChange = 10 * time.Millisecond
)

// loadEnv makes this test's program a process that only loads a mesh, so that its memory can be told apart.
const loadEnv = "TULLE_TEST_LOAD"

// loadReport is what such a process tells of itself, a line each time it is asked.
type loadReport struct {
	Load      time.Duration // from the start of the client until the last pod is known
	CPU       time.Duration // that it took
	Change    time.Duration // from the arrival of one changed workload to the table that has it, mostly
	RSS, Peak int           // bytes
}

// loadMesh is the process: it loads what the control plane at an address has, and reports whenever it reads a line.
func loadMesh(place string, in io.Reader, out io.Writer) error {
	address, root, _ := strings.Cut(place, " ")
	cfg := config.Config{Node: "n", XDS: settings.ControlPlane{Address: address, RootCA: root}, SecretTTL: time.Hour}
	z := newZtunnel(drain.New(time.Second), cfg, noCA{}, nil, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	began := time.Now()
	ready, err := z.followState(ctx, &group)
	if err != nil {
		return err
	}
	<-ready
	last := fakeistiod.WorldPod(worldPods - 1).GetUid()
	if _, err := z.store.Wait(ctx, func(t *state.Table) bool { return t.Workload(last) != nil }); err != nil {
		return err
	}
	report := loadReport{Load: time.Since(began), CPU: cpuTime(), Change: changeOne(z.store)}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		report.RSS, report.Peak = memory("VmRSS"), memory("VmHWM")
		if err := json.NewEncoder(out).Encode(report); err != nil {
			return err
		}
	}
	return nil
}

// changeOne returns the median time that a push of one changed workload takes.
func changeOne(store *state.Store) time.Duration {
	var times []time.Duration
	for i := range 101 {
		pod := fakeistiod.WorldPod(i * 97)
		pod.Status = workload.WorkloadStatus_UNHEALTHY
		body, err := proto.Marshal(&workload.Address{Type: &workload.Address_Workload{Workload: pod}})
		if err != nil {
			panic(err)
		}
		push := xds.Push{TypeURL: state.AddressType, Resources: slices.Values([]xds.Resource{{Name: pod.GetUid(), Version: "2", Body: body}})}
		began := time.Now()
		if rejected := intake.Apply(store, push); len(rejected) > 0 {
			panic(fmt.Sprint(rejected))
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// cpuTime is how much this process used up.
func cpuTime() time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// memory reads a line of this process's status, which is in KiB.
func memory(line string) (bytes int) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := strings.Cut(string(status), line+":")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		panic(err)
	}
	return bytes << 10
}

func TestLargeMeshIsLoadedFastIntoLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("loads 100,000 workloads")
	}
	if info, ok := debug.ReadBuildInfo(); ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" }) {
		t.Skip("the race detector needs many times the memory; run without -race")
	}
	for _, test := range []struct {
		name   string
		pushes int
		most   int // bytes at any time
		env    []string
	}{
		{"in one push", 1, maxMemory, nil},
		{"in many pushes", 100, maxMemory, nil},
		{"with little memory", 1, maxMemory * 3 / 4, []string{"GOMEMLIMIT=130MiB"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			istiod := fakeistiod.New(t, nil)
			world := fakeistiod.World(worldPods)
			if test.pushes == 1 {
				istiod.Set(world...)
			}
			child := startLoad(t, istiod, test.env...)
			if test.pushes > 1 {
				for part := range slices.Chunk(world, len(world)/test.pushes) {
					istiod.Set(part...)
				}
			}
			report := child.report(t)
			t.Logf("loaded in %s, CPU %s, a change in %s, %d MB, at most %d MB", report.Load, report.CPU, report.Change, report.RSS>>20, report.Peak>>20)
			if report.CPU > maxCPU || report.Peak > test.most || report.Change > maxChange {
				t.Errorf("%+v, want at most %s of CPU, %d bytes and %s for a change", report, maxCPU, test.most, maxChange)
			}
		})
	}
}

// loading is the process that loads a mesh.
type loading struct {
	in  io.Writer
	out *json.Decoder
}

func startLoad(t *testing.T, istiod *fakeistiod.Server, env ...string) *loading {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), loadEnv+"="+istiod.Address()+" "+istiod.RootFile()), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		timeout.Stop()
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process that loads: %v", err)
		}
	})
	return &loading{in, json.NewDecoder(out)}
}

// report asks how loading went.
func (l *loading) report(t *testing.T) loadReport {
	t.Helper()
	var report loadReport
	if _, err := fmt.Fprintln(l.in); err != nil {
		t.Fatal(err)
	}
	if err := l.out.Decode(&report); err != nil {
		t.Fatal(err)
	}
	return report
}

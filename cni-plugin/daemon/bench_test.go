package daemon

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// BenchmarkAgentStart measures the real program on a node with 250 pods, of which none is enrolled yet and a proxy waits for them:
// the time until all are, the processor time that takes, and the most memory that the agent has had.
func BenchmarkAgentStart(b *testing.B) {
	const pods = 250
	program := filepath.Join(b.TempDir(), "tulle-cni-agent")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "../node-agent").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, engine := range []redirect.Engine{redirect.NFT, redirect.EBPF} {
		b.Run(string(engine), func(b *testing.B) {
			var took, spent time.Duration
			var memory int
			for range b.N {
				n := newNode(b)
				for i := range pods {
					n.pod(fmt.Sprintf("pod-%d", i), newPod(b).Path, "")
				}
				n.cfg.Engine, n.cfg.Pins = string(engine), b.TempDir()
				b.Cleanup(func() { // with every engine it was mounted, to remove what ebpf has left
					if err := syscall.Unmount(n.cfg.Pins, 0); err != nil {
						b.Error(err)
					}
				})
				began := time.Now()
				agent := n.launch(program)
				p := fakeproxy.ConnectOwn(b, n.cfg.ZDSSocket, shareListeners(b))
				n.eventually(strconv.Itoa(pods), func() string { return fmt.Sprint(strings.Count(n.published(), "enabled")) })
				took += time.Since(began)
				memory = max(memory, peakMemory(b, agent.Process.Pid))
				if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
					b.Error(err)
				}
				if err := agent.Wait(); err != nil {
					b.Errorf("%v\n%s", err, n.logs.b.String())
				}
				<-p.Done()
				spent += agent.ProcessState.UserTime() + agent.ProcessState.SystemTime()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took.Seconds()/float64(b.N), "s")
			b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s")
			b.ReportMetric(float64(memory)/1024, "peak-MiB")
		})
	}
}

// launch runs the program.
func (n *node) launch(program string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command(program, "--source", "files", n.cfg.Dir, "--node", n.cfg.Node, "--status", n.cfg.Status, "--zds-socket", n.cfg.ZDSSocket,
		"--plugin-socket", n.cfg.PluginSocket, "--health-addr", n.cfg.HealthAddr, "--engine", n.cfg.Engine, "--bpf-dir", n.cfg.Pins,
		"--node-netns", n.cfg.NodeNetns)
	cmd.Stdout, cmd.Stderr = n.logs, n.logs
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// shareListeners answers as a proxy that opens its listeners in each pod and hands them over.
func shareListeners(t testing.TB) func(fakeproxy.Request) fakeproxy.Answer {
	var opened sync.Map
	t.Cleanup(func() {
		opened.Range(func(listener, _ any) bool { listener.(interface{ Close() error }).Close(); return true })
	})
	return func(r fakeproxy.Request) fakeproxy.Answer {
		if r.Verb != "add" {
			return fakeproxy.Answer{}
		}
		answer := fakeproxy.Answer{Share: socket.Given{}}
		err := func() (err error) {
			if len(r.Given) > 0 { // of the pod that was in the snapshot already
				answer.Share, err = r.Given.Copy()
				return err
			}
			ns, err := socket.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", r.Netns.Fd()))
			if err != nil {
				return err
			}
			defer ns.Close()
			for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
				listener, err := ns.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port), Mark: socket.Mark, Transparent: true})
				if err != nil {
					return err
				}
				opened.Store(listener, nil)
				raw, err := listener.SyscallConn()
				if err != nil {
					return err
				}
				var shared error
				if err := raw.Control(func(fd uintptr) { shared = answer.Share.Share(int(fd), false) }); err != nil || shared != nil {
					return fmt.Errorf("%v %v", err, shared)
				}
			}
			return nil
		}()
		if err != nil {
			answer.Refuse = err.Error()
		}
		return answer
	}
}

// peakMemory is the most resident memory that a process has had, in KiB.
func peakMemory(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(string(rest)), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatal("the process has no peak of memory")
	return 0
}

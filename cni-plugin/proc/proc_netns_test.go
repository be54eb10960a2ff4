package proc

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
)

const (
	cart    = "2c48913c-b29f-11e7-9350-020968147796"
	catalog = "3d59a24d-b29f-11e7-9350-020968147796"
)

// node is a folder like the node's /proc. Its processes are real ones in real namespaces; their cgroups are ours to say, for
// a test can't make the kubelet's.
type node struct {
	t   *testing.T
	dir string
}

// host is a process in the host's network. This one's main thread may be anywhere, after what these tests do.
func host() string { return strconv.Itoa(os.Getppid()) }

func newNode(t *testing.T) node {
	n := node{t, t.TempDir()}
	n.link("1", host(), "")
	return n
}

func (n node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n node) link(pid, real, cgroup string) {
	n.t.Helper()
	at := filepath.Join(n.dir, pid)
	n.must(os.MkdirAll(at, 0o755))
	n.must(os.Symlink(filepath.Join("/proc", real, "ns"), filepath.Join(at, "ns")))
	n.must(os.Symlink(filepath.Join("/proc", real, "stat"), filepath.Join(at, "stat")))
	n.must(os.WriteFile(filepath.Join(at, "cgroup"), []byte(cgroup), 0o644))
}

// run starts a process of a pod in a namespace.
func (n node) run(ns *netns.Namespace, uid string) (pid string, kill func()) {
	n.t.Helper()
	var cmd *exec.Cmd
	n.must(ns.Do(func() error {
		cmd = exec.Command("sleep", "100")
		return cmd.Start()
	}))
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	n.t.Cleanup(kill)
	pid = strconv.Itoa(cmd.Process.Pid)
	n.link(pid, pid, "0::/kubepods/pod"+uid+"/x\n")
	return pid, kill
}

// find looks with eyes that haven't seen anything yet, and says which process was found.
func (n node) find(uid, ip string) string {
	n.t.Helper()
	path, err := New(n.dir).Find(uid, []netip.Addr{netip.MustParseAddr(ip)})
	n.must(err)
	if path == "" {
		return ""
	}
	return filepath.Base(filepath.Dir(filepath.Dir(path)))
}

func pod(t *testing.T, addr4, addr6 string) *netns.Namespace {
	t.Helper()
	ns, peer := netns.New(t, "tulle-proc-test"), netns.New(t, "tulle-proc-test")
	netns.Connect(ns, peer, "eth0", []netip.Prefix{netip.MustParsePrefix(addr4 + "/24"), netip.MustParsePrefix(addr6 + "/64")}, []netip.Prefix{netip.MustParsePrefix("10.79.0.250/24")})
	return ns
}

func TestARunningPodIsFound(t *testing.T) {
	n := newNode(t)
	first, second := pod(t, "10.79.0.1", "fd00::1"), pod(t, "10.79.0.2", "fd00::2")
	pid, kill := n.run(first, cart)
	other, _ := n.run(second, catalog)
	n.link("9", host(), "0::/kubepods/pod"+cart+"/x\n") // in the host's network
	for _, ip := range []string{"10.79.0.1", "fd00::1"} {
		if got := n.find(cart, ip); got != pid {
			t.Errorf("by %s: found %q, want %s", ip, got, pid)
		}
	}
	if got := n.find(catalog, "10.79.0.2"); got != other {
		t.Errorf("the other pod: found %q, want %s", got, other)
	}
	if got := n.find("ffffffff-b29f-11e7-9350-020968147796", "10.79.0.1"); got != "" {
		t.Errorf("a pod without a process: found %q", got)
	}
	kill()
	if got := n.find(cart, "10.79.0.1"); got != "" {
		t.Errorf("after its end: found %q", got)
	}
}

func TestAProcessInAnothersNetworkIsNotTaken(t *testing.T) {
	n := newNode(t)
	first, second := pod(t, "10.79.0.1", "fd00::1"), pod(t, "10.79.0.2", "fd00::2")
	n.run(second, cart) // older than the pod's own
	pid, _ := n.run(first, cart)
	if got := n.find(cart, "10.79.0.1"); got != pid {
		t.Errorf("found %q, want %s", got, pid)
	}
	if got := n.find(cart, "10.79.0.3"); got != "" {
		t.Errorf("by an address that nobody has: found %q", got)
	}
}

func TestWithoutTheNodesProcessesNothingIsGuessed(t *testing.T) {
	_, err := New(t.TempDir()).Find(cart, []netip.Addr{netip.MustParseAddr("10.79.0.1")})
	if err == nil {
		t.Error("no error")
	}
}

func TestTheOldestProcessSaysWhereThePodLives(t *testing.T) {
	got := oldest([]process{{path: "c", started: 7}, {path: "b", started: 3}, {path: "a", started: 1 << 63}})
	var paths string
	for _, p := range got { // all in one namespace: the zero one
		paths += p.path
	}
	if paths != "b" {
		t.Errorf("kept %s", paths)
	}
}

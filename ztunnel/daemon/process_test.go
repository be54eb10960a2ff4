package daemon

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

// processMode is the variable by which a test's binary is told to be a ztunnel instead.
const processMode = "TULLE_TEST_PROCESS"

// beProcess turns the test's binary into a ztunnel if it is told so.
func beProcess() {
	privileges, ok := os.LookupEnv(processMode)
	if !ok {
		return
	}
	if privileges != "ready" {
		must(restrict(privileges))
		must(os.Setenv(processMode, "ready"))
		must(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	cfg, err := config.FromEnv(os.Environ())
	must(err)
	must(Run(cfg, "test", os.Stdout))
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		fmt.Println("ztunnel:", err)
		os.Exit(1)
	}
}

// restrict prepares this thread for exec: "uid=N" becomes that user without any capability, "caps=N,N" root with these
// only and a low limit of open files.
func restrict(privileges string) error {
	runtime.LockOSThread()
	if uid, ok := strings.CutPrefix(privileges, "uid="); ok {
		id, err := strconv.Atoi(uid)
		if err != nil {
			return err
		}
		if err := syscall.Setgid(id); err != nil {
			return err
		}
		return syscall.Setuid(id)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 100, Max: 4321}); err != nil {
		return err
	}
	kept := strings.Split(strings.TrimPrefix(privileges, "caps="), ",")
	for capability := range unix.CAP_LAST_CAP + 1 {
		if keep := strconv.Itoa(capability); !strings.Contains(","+strings.Join(kept, ",")+",", ","+keep+",") {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// startProcess starts a ztunnel as a process of its own inside a namespace, with the privileges of restrict and the
// variables. Only its log can be asked, unless a test dials into the namespace.
func (m *mesh) startProcess(in *netns.Namespace, privileges string, env ...string) *node {
	m.t.Helper()
	m.bridge(in)
	root, err := os.ReadFile(m.istiod.RootFile())
	if err != nil {
		m.t.Fatal(err)
	}
	n := &node{t: m.t, log: &logBuffer{}, ended: make(chan error, 1)}
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = m.t.TempDir()
	cmd.Env = append([]string{processMode + "=" + privileges, "XDS_ADDRESS=https://127.0.0.1:15012", "CA_ADDRESS=https://127.0.0.1:15012",
		"XDS_ROOT_CA=" + string(root), "CA_ROOT_CA=" + string(root), "RUST_LOG=debug"}, env...)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	if err := in.Do(cmd.Start); err != nil { // the child is where the thread is that starts it
		m.t.Fatal(err)
	}
	n.pid = cmd.Process.Pid
	go func() { n.ended <- cmd.Wait() }()
	m.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		forced := time.AfterFunc(patience/2, func() { _ = cmd.Process.Kill() })
		defer forced.Stop()
		if err := <-n.ended; err != nil {
			m.t.Errorf("the process ended with %v", err)
		}
		if m.t.Failed() {
			m.t.Logf("log of the process in %s:\n%s", in.Name, n.log)
		}
	})
	return n
}

// bridge makes the control plane, which is on the test's own loopback, reachable on the namespace's.
func (m *mesh) bridge(in *netns.Namespace) {
	m.t.Helper()
	l, err := in.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:15012")})
	if err != nil {
		m.t.Fatal(err)
	}
	var group sync.WaitGroup
	m.t.Cleanup(func() { l.Close(); group.Wait() })
	group.Go(func() {
		for {
			near, err := l.AcceptTCP()
			if err != nil {
				return
			}
			group.Go(func() { carry(near, strings.TrimPrefix(m.istiod.Address(), "https://")) })
		}
	})
}

func carry(near *net.TCPConn, to string) {
	defer near.Close()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		io.Copy(far, near)
		far.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(near, far)
}

// zdsPath is a socket's path that any user can reach.
func zdsPath(t *testing.T) string { return filepath.Join(t.TempDir(), "zds.sock") }

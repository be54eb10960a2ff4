package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// inNetns runs f on a thread in a new network namespace, which ends with it.
func inNetns(t *testing.T, f func(netns int, inode uint32)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, unless it's the process's first
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		var stat unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
			t.Error(err)
			return
		}
		f(int(file.Fd()), uint32(stat.Ino))
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
	}()
	<-done
}

func TestProgramsOutliveWhoHasAttachedThem(t *testing.T) {
	p := pod(t)
	inNetns(t, func(netns int, inode uint32) {
		if err := p.Attach(netns, []int{loopbackIndex}, nil); err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(p.Switch(In|Out), p.Keep([]uint32{3, 1})); err != nil {
			t.Error(err)
		}
		p.Close()
		later, err := Open(p.dir)
		if err != nil {
			t.Error(err)
			return
		}
		defer later.Close()
		at, err := later.Attached()
		if err != nil || at.Netns != inode || !slices.Equal(at.Interfaces, []int{loopbackIndex}) || len(at.Stale) > 0 {
			t.Errorf("attached is %+v (%v), want namespace %d and interface 1", at, err, inode)
		}
		on, err := later.Switched()
		own, ownErr := later.Own()
		kept, keptErr := later.Kept(3)
		if err := errors.Join(err, ownErr, keptErr); err != nil || on != In|Out || len(own) != 2 || !slices.Equal(kept, []uint32{3, 1, 0}) {
			t.Errorf("switched %b, own %v, kept %v (%v)", on, own, kept, err)
		}
		if err := Remove(p.dir); err != nil {
			t.Error(err)
		}
		if _, err := Open(p.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after removal: %v", err)
		}
	})
}

// Attaching again replaces programs of another version, and those of interfaces that went away.
func TestOtherProgramsAreFoundAndReplaced(t *testing.T) {
	p := pod(t)
	inNetns(t, func(netns int, inode uint32) {
		if err := p.Attach(netns, []int{loopbackIndex}, nil); err != nil {
			t.Error(err)
			return
		}
		other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		old, err := link.LoadPinnedLink(filepath.Join(p.dir, lookupPin), nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer old.Close()
		if err := old.Update(other); err != nil {
			t.Error(err)
		}
		if at, err := p.Attached(); err != nil || !slices.Equal(at.Stale, []string{lookupPin}) {
			t.Errorf("attached is %+v (%v), want lookup stale", at, err)
		}
		if err := p.Attach(netns, nil, nil); err != nil {
			t.Error(err)
		}
		if at, err := p.Attached(); err != nil || at.Netns != inode || len(at.Interfaces)+len(at.Stale) > 0 {
			t.Errorf("attached is %+v (%v), want lookup alone", at, err)
		}
	})
}

func TestPinsOfANamespaceThatIsGoneLeadNowhere(t *testing.T) {
	p := pod(t)
	inNetns(t, func(netns int, inode uint32) {
		if err := p.Attach(netns, []int{loopbackIndex}, nil); err != nil {
			t.Error(err)
		}
		if got, err := Netns(p.dir); err != nil || got != inode {
			t.Errorf("namespace %d (%v), want %d", got, err, inode)
		}
	})
	var at Attached
	var err error
	for range 100_000 { // the kernel takes namespaces apart in the background, and their interfaces last
		if at, err = p.Attached(); err != nil || len(at.Stale) == 2 {
			break
		}
		runtime.Gosched()
	}
	if err != nil || at.Netns != 0 || len(at.Interfaces) > 0 || len(at.Stale) != 2 {
		t.Errorf("attached is %+v (%v), want two stale pins", at, err)
	}
	if err := Remove(p.dir); err != nil {
		t.Error(err)
	}
}

func TestVirtualInterfacesAreReadAsTheyWereNoted(t *testing.T) {
	p := pod(t)
	for _, want := range []map[string]int{{}, {"tap0": 3, "docker0": 0, "an-interface-15": 7, "b": 0}, {"docker0": 4, "tap0": 0}, {}} {
		if err := p.SetVirtual(want); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Virtual(); err != nil || !maps.Equal(got, want) {
			t.Errorf("read %v (%v), want %v", got, err, want)
		}
	}
	many := map[string]int{}
	for i := range maxVirtual + 1 {
		many[strconv.Itoa(i)] = 0
	}
	if err := p.SetVirtual(many); err == nil {
		t.Error("more interfaces than there is room for were taken")
	}
}

// An agent before this one has made fewer maps.
func TestPodsOfAnOlderAgentGetTheMapThatTheyLack(t *testing.T) {
	p := pod(t)
	if err := os.Remove(filepath.Join(p.dir, virtualMap)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		opened, err := Open(p.dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := opened.Virtual(); err != nil || len(got) > 0 {
			t.Errorf("read %v (%v), want none", got, err)
		}
		opened.Close()
	}
	if err := os.Remove(filepath.Join(p.dir, "own")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a pod was opened: %v", err)
	}
}

func TestMapsThatDontFitAreRefused(t *testing.T) {
	p := pod(t)
	if err := p.SetOwn(slices.Repeat([]netip.Addr{own4}, maxOwn+1)); err == nil {
		t.Error("more addresses than there is room for were taken")
	}
	if err := p.Keep(make([]uint32, maxKept+1)); err == nil {
		t.Error("more values than there is room for were taken")
	}
	if err := p.SetOwn([]netip.Addr{peer6}); err != nil {
		t.Fatal(err)
	}
	if own, err := p.Own(); err != nil || !slices.Equal(own, []netip.Addr{peer6}) {
		t.Errorf("own addresses are %v (%v), want the new one alone", own, err)
	}
	if err := os.Remove(filepath.Join(p.dir, "own")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a pod was opened: %v", err)
	}
}

func TestTheVerifiersWordsAreInTheError(t *testing.T) {
	pod(t) // for its needs
	_, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Return()}})
	if err = explain(err); err == nil || !strings.Contains(err.Error(), "R0 !read_ok") {
		t.Errorf("error is %v, want the verifier's reason", err)
	}
}

// The committed objects come from the committed source.
func TestObjectsAreCompiledFromTheSource(t *testing.T) {
	clang, err := exec.LookPath("clang")
	if err != nil {
		t.Skip("needs clang: apt-get install -y clang libbpf-dev")
	}
	object := filepath.Join(t.TempDir(), "capture.o")
	out, err := exec.Command(clang, "-O2", "-g", "-Wall", "-Werror", "-mcpu=v3", "-target", "bpfel", "-D__TARGET_ARCH_x86", "-I/usr/include/x86_64-linux-gnu", "-c", "capture.c", "-o", object).CombinedOutput()
	if err != nil {
		t.Fatalf("clang: %v\n%s", err, out)
	}
	fresh, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		t.Fatal(err)
	}
	committed, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range fresh.Programs {
		was := committed.Programs[name]
		if was == nil || fmt.Sprint(was.Instructions) != fmt.Sprint(program.Instructions) {
			t.Errorf("%s differs from the committed object; run make generate", name)
		}
	}
}

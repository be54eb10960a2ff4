package zds

import (
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

var port = socket.Port{Addr: netip.MustParseAddrPort("127.0.0.1:15008")}

// sockets makes something with descriptors that a keeper can keep; each has a key of its own.
func sockets(t *testing.T) socket.Given {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return socket.Given{port: fd}
}

func duplicateOf(t *testing.T, of socket.Given) socket.Given {
	t.Helper()
	copies, err := of.Copy()
	if err != nil {
		t.Fatal(err)
	}
	return copies
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// keeping is a keeper of one pod that counts what it gave up.
type keeping struct {
	*keeper
	t        *testing.T
	orphaned atomic.Int32
}

func newKeeping(t *testing.T) *keeping {
	k := &keeping{t: t}
	k.keeper = newKeeper(func(string) { k.orphaned.Add(1) })
	return k
}

// offers tells which sockets the next proxy would get.
func (k *keeping) offers() string {
	k.t.Helper()
	given, err := k.offer("pod")
	if err != nil {
		k.t.Fatal(err)
	}
	defer given.Close()
	return given.Key()
}

func TestListenersWaitForTheNextProxyButNotForEver(t *testing.T) {
	before := openFiles(t)
	synctest.Test(t, func(t *testing.T) {
		k, first, second := newKeeping(t), new(connection), new(connection)
		made := sockets(t)
		defer made.Close()
		k.took("pod", first, duplicateOf(t, made))
		time.Sleep(time.Hour)
		if k.offers() != made.Key() {
			t.Error("they aren't kept as long as the proxy is there")
		}
		k.gone(first)
		time.Sleep(25 * time.Second) // a ztunnel that has crashed may be started again as late as that
		if k.offers() != made.Key() {
			t.Error("they aren't kept for the next")
		}
		k.took("pod", second, duplicateOf(t, made))
		time.Sleep(time.Hour)
		if k.offers() != made.Key() {
			t.Error("they aren't kept although a proxy has taken them over")
		}
		k.gone(second)
		time.Sleep(31 * time.Second) // as docs/capture.md says
		if k.offers() != "" || k.orphaned.Load() != 1 {
			t.Errorf("nobody accepts, but %q is kept; orphaned %d times", k.offers(), k.orphaned.Load())
		}
		k.drop("pod")
		k.drop("never there")
	})
	if after := openFiles(t); after > before { // others may be closed meanwhile
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

func TestOneOfTwoProxiesWithTheSameListenersGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, first, second := newKeeping(t), new(connection), new(connection)
		made := sockets(t)
		defer made.Close()
		k.took("pod", first, duplicateOf(t, made))
		k.took("pod", second, duplicateOf(t, made))
		k.gone(first)
		time.Sleep(time.Hour)
		if k.offers() != made.Key() {
			t.Error("they aren't kept although a proxy accepts on them")
		}
		k.gone(second)
		k.gone(second)
		k.close()
		time.Sleep(time.Hour)
		if k.offers() != "" || k.orphaned.Load() != 0 {
			t.Errorf("after the end %q is kept; orphaned %d times", k.offers(), k.orphaned.Load())
		}
	})
}

// Where a proxy serves by listeners of its own, others that nobody accepts on would swallow their part of the connections.
func TestListenersBesideThoseOfAnotherProxyAreGivenUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, first, second := newKeeping(t), new(connection), new(connection)
		one, other := sockets(t), sockets(t)
		defer one.Close()
		defer other.Close()
		k.took("pod", first, duplicateOf(t, one))
		k.took("pod", second, duplicateOf(t, other))
		if k.offers() != other.Key() {
			t.Error("those of the newest proxy aren't kept")
		}
		k.gone(second)
		if k.offers() != "" {
			t.Error("they are kept although the other proxy doesn't accept on them")
		}
		k.took("pod", first, duplicateOf(t, one))
		k.took("pod", second, socket.Given{}) // a proxy of another project
		if k.offers() != "" {
			t.Error("they are kept beside a foreign proxy's")
		}
		k.close()
	})
}

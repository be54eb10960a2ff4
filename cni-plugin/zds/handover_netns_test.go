package zds_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// listen opens a proxy's listeners in a pod.
func listen(t *testing.T, n *netns.Namespace) socket.Given {
	t.Helper()
	given := socket.Given{}
	t.Cleanup(given.Close)
	for _, port := range []uint16{15001, 15008} {
		addr := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
		fd, err := n.ListenFD(socket.ListenConfig{Addr: addr, ReusePort: true})
		if err != nil {
			t.Fatal(err)
		}
		given[socket.Port{Addr: addr}] = fd
	}
	return given
}

// own connects a proxy of ours that shares what it is told to, and records what it was given.
func (s *server) own(share socket.Given, given chan<- string) *fakeproxy.Proxy {
	s.t.Helper()
	mine, err := share.Copy()
	if err != nil {
		s.t.Fatal(err)
	}
	p := fakeproxy.ConnectOwn(s.t, s.socket, func(r fakeproxy.Request) fakeproxy.Answer {
		if r.Verb != "add" {
			return fakeproxy.Answer{}
		}
		given <- r.Given.Key()
		return fakeproxy.Answer{Share: mine}
	})
	select {
	case <-s.Snapshots():
	case <-time.After(patience):
		s.t.Fatal("no snapshot was taken")
	}
	return p
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// refused tells that nobody listens in the pod any more.
func refused(t *testing.T, n *netns.Namespace) bool {
	t.Helper()
	conn, err := n.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:15008"), socket.DialConfig{})
	if err == nil {
		conn.Close()
	}
	return err != nil && strings.Contains(err.Error(), "refused")
}

func TestListenersGoFromOneProxyToTheNext(t *testing.T) {
	s, n := start(t), netns.New(t, "tulle-zds-test")
	s.Register(workload("a"), n.File())
	share, given := listen(t, n), make(chan string, 1)
	first := s.own(share, given)
	if got := <-given; got != "" {
		t.Errorf("the first proxy was given %s", got)
	}
	key := share.Key()
	first.Close()
	ended(t, first)
	share.Close() // as a killed process does
	second := fakeproxy.ConnectOwn(t, s.socket, func(r fakeproxy.Request) fakeproxy.Answer {
		if r.Verb != "add" {
			return fakeproxy.Answer{}
		}
		given <- r.Given.Key()
		copied, _ := r.Given.Copy()
		return fakeproxy.Answer{Share: copied}
	})
	if got := <-given; got != key {
		t.Errorf("the second proxy was given %q, want %q", got, key)
	}
	<-s.Snapshots()
	second.Close()
	ended(t, second)
	if refused(t, n) {
		t.Error("clients are refused although a third proxy may come")
	}
	if err := s.del("uid-a"); err != nil {
		t.Fatal(err)
	}
	if !refused(t, n) {
		t.Error("the pod is gone, but somebody listens")
	}
}

// startListening is start; it also tells which listeners of a pod new connections come to, each time that they become those.
func startListening(t *testing.T) (*server, <-chan string) {
	t.Helper()
	s := &server{Server: zds.NewServer(slog.New(slog.DiscardHandler)), t: t, socket: filepath.Join(t.TempDir(), "ztunnel.sock")}
	told := make(chan string, 10)
	s.OnListeners(func(_ socket.NetnsID, given socket.Given) error {
		told <- given.Key()
		return nil
	})
	s.serve()
	return s, told
}

// started connects a proxy that started then, and goes on with its own listeners whatever it is given.
func (s *server) started(then uint64, own socket.Given) *fakeproxy.Proxy {
	s.t.Helper()
	p := fakeproxy.ConnectStarted(s.t, s.socket, then, func(r fakeproxy.Request) fakeproxy.Answer {
		if r.Verb != "add" {
			return fakeproxy.Answer{}
		}
		mine, err := own.Copy()
		if err != nil {
			s.t.Error(err)
		}
		return fakeproxy.Answer{Share: mine}
	})
	select {
	case <-s.Snapshots():
	case <-time.After(patience):
		s.t.Fatal("no snapshot was taken")
	}
	return p
}

// An agent that is replaced together with the proxy may be reached by the new one first.
func TestTheProxyThatStartedLastHasThePodsWhoeverComesFirst(t *testing.T) {
	for name, order := range map[string][]uint64{"the newer comes first": {2, 1}, "the older comes first": {1, 2}} {
		t.Run(name, func(t *testing.T) {
			s, told := startListening(t)
			n := netns.New(t, "tulle-zds-test")
			s.Register(workload("a"), n.File())
			own := map[uint64]socket.Given{1: listen(t, n), 2: listen(t, n)}
			proxies := map[uint64]*fakeproxy.Proxy{}
			for _, then := range order {
				proxies[then] = s.started(then, own[then])
			}
			newest := own[2].Key()
			if got := last(told); got != newest {
				t.Errorf("new connections come to %s, want %s of the newer proxy", got, newest)
			}
			proxies[1].Close()
			eventually(t, "the older to be forgotten", func() bool { return s.Connected() == 1 })
			if got := last(told); got != "" && got != newest {
				t.Errorf("when the older has gone, new connections come to %s, want %s", got, newest)
			}
			kept, err := s.Listeners("uid-a")
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			if kept.Key() != newest {
				t.Errorf("%s are kept, want %s", kept.Key(), newest)
			}
		})
	}
}

// The new proxy of a rollout may crash while the old one is still there.
func TestWhenTheNewestProxyGoesTheOneBeforeHasThePodsAgain(t *testing.T) {
	s, told := startListening(t)
	n := netns.New(t, "tulle-zds-test")
	s.Register(workload("a"), n.File())
	older, newer := listen(t, n), listen(t, n)
	s.started(1, older)
	second := s.started(2, newer)
	if got := last(told); got != newer.Key() {
		t.Fatalf("new connections come to %s, want %s", got, newer.Key())
	}
	second.Close()
	select {
	case got := <-told:
		if got != older.Key() {
			t.Errorf("new connections come to %s, want %s", got, older.Key())
		}
	case <-time.After(patience):
		t.Error("nobody has new connections")
	}
}

// Such as another project's, or one of a version before.
func TestAProxyThatDoesNotTellWhenItStartedCountsFromItsConnection(t *testing.T) {
	s, n := start(t), netns.New(t, "tulle-zds-test")
	s.Register(workload("a"), n.File())
	s.started(1, listen(t, n))
	foreign := s.connect(nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Add(ctx, workload("b"), n.File()); err != nil {
		t.Fatal(err)
	}
	wantLog(t, foreign, "add uid-a demo/a (shop)", "snapshot", "add uid-b demo/b (shop)")
}

// last is what was told last, or "".
func last(told <-chan string) (key string) {
	for {
		select {
		case key = <-told:
		default:
			return key
		}
	}
}

// A pod's new sandbox has nothing to do with the listeners of the old one.
func TestListenersOfAnotherNamespaceAreGivenUp(t *testing.T) {
	s, n, again := start(t), netns.New(t, "tulle-zds-test"), netns.New(t, "tulle-zds-test")
	s.Register(workload("a"), n.File())
	share, given := listen(t, n), make(chan string, 1)
	s.own(share, given)
	<-given
	s.Register(workload("a"), n.File()) // the same
	share.Close()
	if refused(t, n) {
		t.Error("a pod that is registered again loses its listeners")
	}
	s.Register(workload("a"), again.File())
	if !refused(t, n) {
		t.Error("the listeners in the old namespace are kept")
	}
}

// A proxy that knows nothing of all this is asked for nothing, and what others left is closed for it.
func TestAForeignProxyIsUndisturbed(t *testing.T) {
	s, n := start(t), netns.New(t, "tulle-zds-test")
	s.Register(workload("a"), n.File())
	share, given := listen(t, n), make(chan string, 1)
	own := s.own(share, given)
	<-given
	share.Close()
	foreign := s.connect(func(r fakeproxy.Request) fakeproxy.Answer {
		if r.HandOver || len(r.Given) > 0 {
			t.Errorf("%s is asked to hand over, and given %v", r, r.Given.Ports())
		}
		return fakeproxy.Answer{}
	})
	if !refused(t, n) {
		t.Error("listeners are kept that the foreign proxy doesn't accept on")
	}
	if err := s.del("uid-a"); err != nil {
		t.Fatal(err)
	}
	wantLog(t, foreign, "add uid-a demo/a (shop)", "snapshot", "del uid-a")
	wantLog(t, own, "add uid-a demo/a (shop)", "snapshot", "stop uid-a", "del uid-a")
}

// What a proxy hands over wrongly ends its connection, or is left aside; no descriptor stays open.
func TestWrongHandOver(t *testing.T) {
	n, elsewhere := netns.New(t, "tulle-zds-test"), netns.New(t, "tulle-zds-test")
	good, foreign := listen(t, n), listen(t, elsewhere)
	fd := good[socket.Port{Addr: netip.MustParseAddrPort("[::]:15001")}]
	list := func(text string) []byte { return append([]byte{0x0a, byte(len(text))}, text...) }
	listener := func(addr string) string {
		return "\xc2\x3e" + string([]byte{byte(len(addr) + 2)}) + "\x0a" + string([]byte{byte(len(addr))}) + addr
	}
	for name, c := range map[string]struct {
		answer fakeproxy.Answer
		stays  bool
	}{
		"unlisted descriptor":          {fakeproxy.Answer{Files: []int{fd}}, false},
		"no descriptor":                {fakeproxy.Answer{Raw: list(listener("[::]:15001"))}, false},
		"twice the same":               {fakeproxy.Answer{Raw: list(listener("[::]:15001") + listener("[::]:15001")), Files: []int{fd, fd}}, false},
		"no address":                   {fakeproxy.Answer{Raw: list(listener("x")), Files: []int{fd}}, false},
		"with a refusal":               {fakeproxy.Answer{Refuse: "no", Share: good}, true},
		"in another network namespace": {fakeproxy.Answer{Share: foreign}, true},
		"on another port":              {fakeproxy.Answer{Raw: list(listener("[::]:15006")), Files: []int{fd}}, true},
		"no listener":                  {fakeproxy.Answer{Raw: list(listener("[::]:15001")), Files: []int{0}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.Register(workload("a"), n.File())
			if c.answer.Share != nil {
				c.answer.Share, _ = c.answer.Share.Copy()
			}
			before := openFiles(t)
			p := fakeproxy.ConnectOwn(t, s.socket, func(r fakeproxy.Request) fakeproxy.Answer {
				if r.Verb == "add" {
					return c.answer
				}
				return fakeproxy.Answer{}
			})
			if c.stays {
				<-s.Snapshots()
				next := make(chan string, 1)
				s.own(nil, next)
				if got := <-next; got != "" {
					t.Errorf("the next proxy is given %s", got)
				}
				p.Close()
			}
			ended(t, p)
			eventually(t, "the connection to be forgotten", func() bool { return s.Connected() < 2 })
			most := before + 2 // the other proxy's connection, both ends
			eventually(t, "all descriptors to be closed", func() bool { return openFiles(t) <= most })
		})
	}
}

// Descriptors that nobody asked for end the connection too, and are closed.
func TestUnaskedDescriptors(t *testing.T) {
	s := start(t)
	before := openFiles(t)
	for name, connect := range map[string]func() *fakeproxy.Proxy{
		"from a foreign proxy": func() *fakeproxy.Proxy {
			return fakeproxy.Connect(t, s.socket, func(fakeproxy.Request) fakeproxy.Answer { return fakeproxy.Answer{Files: []int{0}} })
		},
		"with the end of the snapshot": func() *fakeproxy.Proxy {
			return fakeproxy.ConnectOwn(t, s.socket, func(fakeproxy.Request) fakeproxy.Answer { return fakeproxy.Answer{Files: []int{0, 1}} })
		},
	} {
		ended(t, connect())
		t.Log(name)
	}
	eventually(t, "all descriptors to be closed", func() bool { return openFiles(t) <= before })
	if diff := cmp.Diff([]zds.Workload(nil), s.Registered()); diff != "" {
		t.Error(diff)
	}
}

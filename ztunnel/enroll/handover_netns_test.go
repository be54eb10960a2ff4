package enroll_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

// listen opens listeners in a namespace, as an earlier ztunnel would have. They are closed with the test.
func listen(t *testing.T, n *netns.Namespace, ports ...uint16) socket.Given {
	t.Helper()
	given := socket.Given{}
	t.Cleanup(given.Close)
	for _, port := range ports {
		addr := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
		fd, err := n.ListenFD(socket.ListenConfig{Addr: addr, ReusePort: true})
		if err != nil {
			t.Fatal(err)
		}
		given[socket.Port{Addr: addr}] = fd
	}
	return given
}

// give sends an add with listeners, and returns the acknowledgement with what came along.
func (r *rig) give(request *zds.WorkloadRequest, n *netns.Namespace, files ...int) (text string, back socket.Given) {
	r.t.Helper()
	file := n.File()
	defer file.Close()
	if err := handover.Send(r.conn, encode(r.t, request), append([]int{int(file.Fd())}, files...)...); err != nil {
		r.t.Fatal(err)
	}
	packet, err := handover.Receive(r.conn)
	if err != nil {
		r.t.Fatal(err)
	}
	response := &zds.WorkloadResponse{}
	if err := proto.Unmarshal(packet.Data, response); err != nil {
		r.t.Fatal(err)
	}
	back, err = handover.Unpack(response.GetAck().GetListeners(), packet.Files)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(back.Close)
	return response.GetAck().GetError(), back
}

func addGiven(uid string, list []*zds.Listener) *zds.WorkloadRequest {
	request := add(uid)
	request.GetAdd().HandOver, request.GetAdd().Listeners = true, list
	return request
}

// The listeners of one ztunnel go by the agent to the next, which accepts on the very same sockets.
func TestListenersGoToAgentAndBack(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.accept()
	made := listen(t, a, 15001, 15006, 15008)
	list, files := handover.Pack(made)
	text, back := r.give(addGiven("one", list), a, files...)
	if text != "" || back.Key() != made.Key() {
		t.Fatalf("acknowledged %q with %v, want %v", text, back.Ports(), made.Ports())
	}
	for range 2 { // a pod that runs has the same listeners still, whatever it is given
		other := listen(t, a, 15001)
		list, files := handover.Pack(other)
		if text, again := r.give(addGiven("one", list), a, files...); text != "" || again.Key() != made.Key() {
			t.Errorf("known pod: acknowledged %q with %v", text, again.Key())
		}
		other.Close()
	}
	if text, none := r.give(add("one"), a); text != "" || len(none) > 0 {
		t.Errorf("an agent that didn't ask gets %v, %q", none.Ports(), text)
	}
	r.failStarts(fmt.Errorf("no"))
	if text, none := r.give(addGiven("two", nil), a); text == "" || len(none) > 0 {
		t.Errorf("with a failure come %v, %q", none.Ports(), text)
	}
}

// Sockets that aren't what the agent says are left aside: the pod gets new ones.
func TestListenersThatDontFitAreNotUsed(t *testing.T) {
	r, a, b := newRig(t), newNetns(t), newNetns(t)
	r.accept()
	elsewhere := listen(t, b, 15001)
	port := func(port uint16) socket.Port {
		return socket.Port{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)}
	}
	good := listen(t, a, 15006)[port(15006)]
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	udp, err := a.ListenUDP(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:15053")})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	raw, _ := udp.SyscallConn()
	var udpFD int
	raw.Control(func(fd uintptr) { udpFD = int(fd) })
	unbound, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(unbound)
	list := []*zds.Listener{
		{Address: "[::]:15001"}, {Address: "[::]:15002"}, {Address: "[::]:15003"}, {Address: "127.0.0.1:15053"}, {Address: "[::]:15005"}, {Address: "[::]:15006"},
		{Address: "127.0.0.1:15054", Udp: true},
	}
	text, _ := r.give(addGiven("one", list), a, elsewhere[port(15001)], good, int(null.Fd()), udpFD, unbound, good, udpFD)
	if text != "" {
		t.Fatalf("acknowledged %q", text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := fmt.Sprint(r.shared["one"].Ports()); got != "[tcp [::]:15006]" {
		t.Errorf("used %s", got)
	}
}

// Whatever the agent does wrong, no descriptor stays open.
func TestBadHandOverLeavesNothingOpen(t *testing.T) {
	many := make([]*zds.Listener, 18)
	for i := range many {
		many[i] = &zds.Listener{Address: fmt.Sprintf("[::]:%d", 15000+i)}
	}
	for _, test := range []struct {
		name  string
		list  []*zds.Listener
		files int // listeners' descriptors
		want  string
	}{
		{"fewer than listed", []*zds.Listener{{Address: "[::]:15001"}, {Address: "[::]:15006"}}, 1, "not 2 in all"},
		{"more than listed", []*zds.Listener{{Address: "[::]:15001"}}, 2, "not 3 in all"},
		{"twice the same", []*zds.Listener{{Address: "[::]:15001"}, {Address: "[::]:15001"}}, 2, "two listeners on tcp [::]:15001"},
		{"no address", []*zds.Listener{{Address: "somewhere"}}, 1, `no listener's address: "somewhere"`},
		{"no port", []*zds.Listener{{Address: "[::]:0"}}, 1, "no listener's address"},
		{"too many", many[:17], 17, "17 listeners are more than 16"},
		{"more than room", many, 18, "packet is larger"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newNetns(t)
			made := listen(t, a, 15001)
			before := openFiles(t)
			r := newRig(t)
			r.accept()
			var files []int
			for range test.files {
				files = append(files, made[socket.Port{Addr: netip.MustParseAddrPort("[::]:15001")}])
			}
			if text, _ := r.give(addGiven("one", test.list), a, files...); !strings.Contains(text, test.want) {
				t.Errorf("acknowledged %q, want %q", text, test.want)
			}
			r.hungUp()
			r.accept()
			r.must(snapshot())
			r.waitStatus(enroll.Status{Ready: true})
			r.cleanUp()
			r.eventually("all descriptors to be closed", func() bool { return openFiles(t) <= before })
		})
	}
}

// Listeners wait with a pod that can't be started, and are closed when it's given up.
func TestListenersOfAPodThatCantStart(t *testing.T) {
	a := newNetns(t)
	made := listen(t, a, 15001)
	list, files := handover.Pack(made)
	before := openFiles(t)
	r := newRig(t)
	r.accept()
	r.failStarts(fmt.Errorf("no"))
	for range 3 {
		if text, _ := r.give(addGiven("one", list), a, files...); !strings.Contains(text, "no") {
			t.Errorf("acknowledged %q", text)
		}
	}
	r.must(snapshot(), del("one"))
	r.cleanUp()
	r.eventually("all descriptors to be closed", func() bool { return openFiles(t) <= before })
}

// A pod that is announced to stop does so gracefully; should it stay after all, it begins anew.
func TestPodThatStops(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.accept()
	r.mustAdd("one", a)
	stop := func(uid string) *zds.WorkloadRequest {
		return &zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Stop{Stop: &zds.StopWorkload{Uid: uid}}}
	}
	r.must(snapshot(), stop("one"), stop("unknown"), del("one"))
	r.mustAdd("one", a)
	r.must(stop("one"))
	r.mustAdd("one", a)
	r.mustAdd("one", a)
	if want, got := "start one, leave one, stop one, start one, leave one, stop one, start one", r.did(); got != want {
		t.Errorf("did %s, want %s", got, want)
	}
}

package socket_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

func TestUserTimeoutOfBothEnds(t *testing.T) {
	for _, want := range []time.Duration{0, 25 * time.Second} {
		var own *socket.Netns
		l, err := own.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:0"), UserTimeout: want})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dialled, err := own.Dial(t.Context(), socket.Unmap(l.Addr()), socket.DialConfig{UserTimeout: want})
		if err != nil {
			t.Fatal(err)
		}
		defer dialled.Close()
		accepted, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		for side, conn := range map[string]*net.TCPConn{"dialled": dialled, "accepted": accepted} {
			if got := userTimeout(t, conn); got != want {
				t.Errorf("%s: %s, want %s", side, got, want)
			}
		}
	}
}

func userTimeout(t *testing.T, conn *net.TCPConn) time.Duration {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	var failed error
	err = raw.Control(func(fd uintptr) { value, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return time.Duration(value) * time.Millisecond
}

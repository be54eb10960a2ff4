package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// mostWaiting is how many requests may wait for connections to a destination.
const mostWaiting = 2000

// fullListener listens at one of the rig's hosts on port 8080, and has its queue filled, so that nobody else's connection comes about. accept takes
// the queue's from it.
func (m *mesh) fullListener(host byte) (accept func()) {
	m.t.Helper()
	fd, conn := m.filled(host)
	accept = sync.OnceFunc(func() { _ = conn.Close(); _ = unix.Close(fd) })
	m.t.Cleanup(accept)
	return accept
}

// filled is the socket of such a listener, and the connection in its queue.
func (m *mesh) filled(host byte) (fd int, conn net.Conn) {
	m.t.Helper()
	at := netip.AddrPortFrom(m.addr(host), 8080)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}), unix.Listen(fd, 0))
	}
	if err != nil {
		m.t.Fatal(err)
	}
	conn, err = net.Dial("tcp", at.String()) // a queue of none has room for one
	if err != nil {
		m.t.Fatal(err)
	}
	return fd, conn
}

// dialling counts the sockets that this machine connects to one of the rig's hosts.
func (m *mesh) dialling(host byte) (count int) {
	m.t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		m.t.Fatal(err)
	}
	addr := m.addr(host).As4()
	want := strings.ToUpper(hex.EncodeToString([]byte{addr[3], addr[2], addr[1], addr[0]})) + ":1F90"
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[2] == want && fields[3] == "02" { // SYN_SENT
			count++
		}
	}
	return count
}

// Each request that waits for a connection may be a socket, so whoever comes when too many wait is told so at once. When they are gone nothing is
// left of them.
func TestOnlySoManyRequestsWaitForConnections(t *testing.T) {
	m := newMesh(t)
	full := m.fullListener(serverHost)
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	browser := m.browser2(m.caller("shop", "client"))
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var refused, other atomic.Int64
	ask := func() (again bool) {
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
		resp, err := browser.Do(req)
		if err != nil {
			return false // cancelled, below
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode == 503 && strings.Contains(string(text), "overflow") {
			refused.Add(1)
			return false
		}
		other.Add(1) // on a busy machine the first have waited too long before the last have come
		return true
	}
	for range mostWaiting + 50 {
		all.Go(func() {
			for ask() {
			}
		})
	}
	most := 0
	m.eventually("refusals", func() error {
		most = max(most, m.dialling(serverHost))
		if refused.Load() < 50 {
			return fmt.Errorf("%d so far, while %d wait", refused.Load(), most)
		}
		return nil
	})
	if most = max(most, m.dialling(serverHost)); most > mostWaiting || other.Load() == 0 && most != mostWaiting {
		t.Errorf("%d sockets for requests that wait, want %d", most, mostWaiting)
	}
	if text := m.log.String(); !strings.Contains(text, "too many requests wait for connections to shop/web.shop") || !strings.Contains(text, "UO") {
		t.Error("the log doesn't say why")
	}
	cancel()
	all.Wait()
	m.eventually("no socket to be left", func() error {
		if n := m.dialling(serverHost); n > 0 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	full()
	m.serve(serverHost, echo("web"))
	if resp, text := fetch(t, browser, "http://web/"); resp.StatusCode != 200 {
		t.Errorf("when there is room again: %d %s", resp.StatusCode, text)
	}
}

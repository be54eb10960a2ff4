package node

import (
	"io"
	"net"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// The app sees its client's address, on a port that the client never takes by itself: else a connection of the client's from that
// port, made while the pod leaves the mesh, would hang.
func TestAppsSeeClientsOnPortsThatClientsDontUse(t *testing.T) {
	c := shared.use(t)
	const calls = 40
	seen := make(chan net.Addr, calls)
	serve(t, c, far, raw, func(conn *net.TCPConn) {
		seen <- conn.RemoteAddr()
		io.Copy(conn, conn)
	})
	for _, from := range []string{client, stranger} { // by a tunnel, and in plain text
		for range calls / 2 {
			if err := talk(c, from, podAddr(c, far, 0, raw), 0); err != nil {
				t.Fatal(err)
			}
			remote := socket.Unmap(<-seen)
			if want := podAddr(c, from, 0, 0).Addr(); remote.Addr() != want || remote.Port() >= 32768 {
				t.Fatalf("the app sees %s, want %s on a port below 32768", remote, want)
			}
		}
	}
}

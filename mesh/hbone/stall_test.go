package hbone

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// fill has an application send until nothing more gets through.
func fill(t *testing.T, app *net.TCPConn) {
	t.Helper()
	_ = app.SetWriteBuffer(64 << 10)
	for piece := make([]byte, 64<<10); ; {
		_ = app.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := app.Write(piece); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return
		}
	}
}

// Applications that stopped reading stall nobody but those who send to them, be they more than the tunnel's window has room for.
func TestManyStalledStreamsDoNotStallTheTunnel(t *testing.T) {
	b := newBed(t)
	const stalled = 10
	for range stalled {
		e := b.tunnelled()
		_ = e.far.SetReadBuffer(64 << 10)
		fill(t, e.near)
	}
	server := b.serverTunnel()
	var held int
	b.onFar(func() { held = backlogOf(server) })
	if held > stalled*(4<<20) || held < 17<<20 {
		t.Errorf("%d stalled streams hold %d bytes, want at most their windows, and more than the tunnel's", stalled, held)
	}
	began := time.Now()
	other := b.tunnelled()
	exchange(t, other)
	content := noise(32<<20, 9)
	sent := make(chan error, 1)
	go func() {
		_, err := other.near.Write(content)
		sent <- errors.Join(err, other.near.CloseWrite())
	}()
	if err := same(other.far, content); err != nil {
		t.Errorf("beside stalled streams: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	t.Logf("%d MiB are held for %d stalled streams; another moved %d MiB in %v", held>>20, stalled, len(content)>>20, time.Since(began))
	if b.tunnels() != 1 {
		t.Errorf("%d tunnels, want one", b.tunnels())
	}
}

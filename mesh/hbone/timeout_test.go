package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// fakeTunnel makes a tunnel on an in-memory connection, within synctest's clock, and returns the peer's end.
func fakeTunnel(t *testing.T, cfg tunnelConfig) (*tunnel, *http2.Framer, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	cfg.socket = &packed{Conn: ours}
	cfg.conn = struct{ net.Conn }{cfg.socket}
	if cfg.max == 0 {
		cfg.max = 10
	}
	if cfg.ended == nil {
		cfg.ended = func(*tunnel) {}
	}
	tunnel := newTunnel(cfg)
	t.Cleanup(func() { _ = theirs.Close() })
	return tunnel, http2.NewFramer(theirs, theirs), theirs
}

// answer reads what the tunnel sends, and answers pings while it is told to.
func answer(framer *http2.Framer, pongs func() bool) {
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() && pongs() {
			_ = framer.WritePing(true, ping.Data)
		}
	}
}

// lifetime waits for the tunnel's end and returns how long it lived and why it ended.
func lifetime(tunnel *tunnel) (time.Duration, error) {
	<-tunnel.gone
	return time.Since(tunnel.born), tunnel.fate()
}

func TestPeerWithoutSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel, framer, theirs := fakeTunnel(t, tunnelConfig{})
		_, _ = io.ReadFull(theirs, make([]byte, len(http2.ClientPreface)))
		go answer(framer, func() bool { return true })
		stream, err := tunnel.open(Request{}.fields())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.await(context.Background()); !errors.Is(err, errSettings) {
			t.Errorf("the request got %v", err)
		}
		if age, err := lifetime(tunnel); age < settingsTimeout || age > settingsTimeout+2*time.Second || !errors.Is(err, errSettings) {
			t.Errorf("the tunnel ended after %v with %v", age, err)
		}
	})
}

func TestPingsKeepATunnelAndFindADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel, framer, theirs := fakeTunnel(t, tunnelConfig{})
		_, _ = io.ReadFull(theirs, make([]byte, len(http2.ClientPreface)))
		alive := time.Now().Add(time.Hour)
		_ = framer.WriteSettings()
		go answer(framer, func() bool { return time.Now().Before(alive) })
		age, err := lifetime(tunnel)
		if dead := age - time.Hour; dead < pingTimeout || dead > pingTimeout+pingInterval+2*time.Second || !errors.Is(err, errPing) {
			t.Errorf("the tunnel ended %v after its peer, with %v", dead, err)
		}
	})
}

// A peer that takes nothing off its socket is found dead too: the writer's block doesn't hide it.
func TestPeerThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel, framer, _ := fakeTunnel(t, tunnelConfig{})
		_ = framer.WriteSettings()
		if age, err := lifetime(tunnel); age < pingTimeout || age > pingInterval+pingTimeout+2*time.Second || !errors.Is(err, errPing) {
			t.Errorf("the tunnel ended after %v with %v", age, err)
		}
	})
}

func TestIdleEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel, framer, theirs := fakeTunnel(t, tunnelConfig{idle: 5 * time.Minute})
		_, _ = io.ReadFull(theirs, make([]byte, len(http2.ClientPreface)))
		_ = framer.WriteSettings()
		go answer(framer, func() bool { return true })
		stream, err := tunnel.open(Request{}.fields())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if tunnel.fate() != nil {
			t.Fatalf("a tunnel with a stream ended: %v", tunnel.fate())
		}
		idle := time.Now()
		stream.Reset()
		_, err = lifetime(tunnel)
		if after := time.Since(idle); after < 5*time.Minute || after > 5*time.Minute+2*time.Second || !errors.Is(err, errIdle) {
			t.Errorf("the tunnel ended after %v without streams, with %v", after, err)
		}
	})
}

// refusing is a connection that its peer broke, with an alert before.
type refusing struct {
	net.Conn
	broken chan struct{}
}

func (c refusing) Write([]byte) (int, error) {
	close(c.broken)
	return 0, syscall.EPIPE
}

func (c refusing) Read([]byte) (int, error) {
	<-c.broken
	time.Sleep(time.Millisecond)
	return 0, tls.AlertError(42)
}

func TestAlertIsReadAfterAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer func() { _ = theirs.Close() }()
		tunnel := newTunnel(tunnelConfig{
			socket: &packed{Conn: ours}, conn: refusing{ours, make(chan struct{})}, max: 10, ended: func(*tunnel) {},
		})
		if _, err := lifetime(tunnel); stageOf(err) != StageTLS {
			t.Errorf("the tunnel ended with %v, want the alert", err)
		}
	})
}

func TestHandshakeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer func() { _ = theirs.Close() }()
		server := NewServer(ServerConfig{TLS: func(context.Context) (*tls.Config, error) { return &tls.Config{}, nil }})
		defer server.Close()
		start := time.Now()
		_, id, stage, err := server.secure(&packed{Conn: ours})
		if took := time.Since(start); took != handshakeTimeout || err == nil || stage != StageTLS || id != (identity.Workload{}) {
			t.Errorf("the handshake ended after %v with %v", took, err)
		}
	})
}

func TestServerThatGetsNoCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, _ := net.Pipe()
		server := NewServer(ServerConfig{TLS: func(ctx context.Context) (*tls.Config, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		defer server.Close()
		if _, _, stage, err := server.secure(&packed{Conn: ours}); err == nil || stage != StageIdentity || !strings.Contains(err.Error(), "own certificate") {
			t.Errorf("secure = %v", err)
		}
	})
}

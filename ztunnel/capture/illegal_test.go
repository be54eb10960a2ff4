package capture_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

func TestPortsOfZtunnelItself(t *testing.T) {
	for port, want := range map[uint16]struct{ without, with bool }{
		15001: {true, true}, 15006: {true, true}, 15008: {true, true}, 15080: {false, true}, 15053: {false, false}, 8080: {false, false},
	} {
		if without, with := capture.Illegal(port, false), capture.Illegal(port, true); without != want.without || with != want.with {
			t.Errorf("port %d: illegal %v without SOCKS5, %v with; want %v, %v", port, without, with, want.without, want.with)
		}
	}
}

package socket

import (
	"errors"
	"net/netip"
	"os"
	"testing"
)

func TestListenerIsClosedIfItsThreadCannotComeHome(t *testing.T) {
	probe, err := (*Netns)(nil).Listen(ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	addr := Unmap(probe.Addr())
	probe.Close()
	own, err := OpenNetns("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.file.Close()
	own.home.Close() // as if Close came between entering and leaving
	if _, err := own.Listen(ListenConfig{Addr: addr}); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Listen = %v, want that the way home is closed", err)
	}
	again, err := (*Netns)(nil).Listen(ListenConfig{Addr: addr})
	if err != nil {
		t.Fatalf("the listener was left open: %v", err)
	}
	again.Close()
}

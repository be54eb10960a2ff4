package handover

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// pair is the two ends of a ZDS connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := socket.ListenUnix("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"}); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestPacketsCarryDescriptors(t *testing.T) {
	a, b := pair(t)
	before := openFiles(t)
	for name, c := range map[string]struct {
		data  string
		files int
		want  error
	}{
		"none":              {"x", 0, nil},
		"as many as may be": {strings.Repeat("x", MaxPacket), 1 + MaxListeners, nil},
		"too many":          {"x", maxFiles + 1, ErrTooLarge},
		"too large":         {strings.Repeat("x", MaxPacket+1), 3, ErrTooLarge},
	} {
		if err := Send(a, []byte(c.data), slices.Repeat([]int{0}, c.files)...); err != nil {
			t.Fatal(err)
		}
		p, err := Receive(b)
		if !errors.Is(err, c.want) || (err == nil && (string(p.Data) != c.data || len(p.Files) != c.files)) {
			t.Errorf("%s: %d bytes with %d descriptors, %v", name, len(p.Data), len(p.Files), err)
		}
		for _, fd := range p.Files {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: a descriptor would outlive exec (%v)", name, err)
			}
		}
		p.Close()
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
	a.Close()
	if _, err := Receive(b); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// Whatever list comes with whatever descriptors: all are joined to listeners, or all are closed.
func FuzzUnpack(f *testing.F) {
	f.Add("[::]:15001", "127.0.0.1:15053", true, 2)
	f.Add("[::]:15001", "[::]:15001", false, 2)
	f.Add("[::]:15001", "[::]:15001", true, 3)
	f.Add("", "x:1", false, 2)
	f.Add("[::%1]:1", "[::]:0", false, 0)
	f.Fuzz(func(t *testing.T, one, two string, udp bool, files int) {
		if files < 0 || files > maxFiles {
			return
		}
		before := openFiles(t)
		var fds []int
		for range files {
			fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		given, err := Unpack([]*zds.Listener{{Address: one}, {Address: two, Udp: udp}}, fds)
		if err == nil {
			list, again := Pack(given)
			if len(list) != 2 || len(again) != 2 || files != 2 {
				t.Errorf("%q, %q with %d descriptors are %v", one, two, files, given.Ports())
			}
			for port := range given {
				if port.Addr.Port() == 0 || port.Addr == (netip.AddrPort{}) {
					t.Errorf("%q, %q are %v", one, two, given.Ports())
				}
			}
		}
		given.Close()
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors are open, %d were (%v)", after, before, err)
		}
	})
}

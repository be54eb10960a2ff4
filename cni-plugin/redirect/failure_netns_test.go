package redirect_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// A full table of tracked connections can't stop a pod that has none.
func TestOnlyNftTracksConnections(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		app(t, peer, "the peer", 9080)
		announcer(t, pod, redirect.PortOutbound)
		announcer(t, pod, redirect.PortInbound)
		set(t, pod, redirect.Capture)
		for _, to := range []string{peer4, peer6} {
			wantProxy(t, mustDial(t, pod, hostPort(to, 9080), socket.DialConfig{}))
		}
		for _, to := range []string{pod4, pod6} {
			wantProxy(t, mustDial(t, peer, hostPort(to, 9080), socket.DialConfig{}))
		}
		if tracked, rewrites := trackedBy(t, pod), under.rewrites(); (tracked > 0) != rewrites {
			t.Errorf("%d connections are tracked", tracked)
		}
	})
}

func wantProxy(t *testing.T, l *line) {
	t.Helper()
	if !strings.HasPrefix(l.banner, "proxy on ") {
		t.Errorf("%q answered: a connection has escaped", l.banner)
	}
}

// An app that may change the pod's rules can flush them. By rules that is damage, which the next look finds and mends; ebpf has none.
func TestFlushedRulesOpenNothingForLong(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		app(t, peer, "the peer", 9080)
		announcer(t, pod, redirect.PortOutbound)
		set(t, pod, redirect.Capture)
		err := pod.Do(func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			conn.FlushRuleset()
			if under.engine == redirect.IPTablesLegacy {
				return errors.Join(exec.Command("iptables-legacy", "-t", "nat", "-F").Run(), exec.Command("ip6tables-legacy", "-t", "nat", "-F").Run())
			}
			return conn.Flush()
		})
		if err != nil {
			t.Fatal(err)
		}
		if under.rewrites() {
			wantState(t, pod, redirect.Damaged)
			set(t, pod, redirect.Capture)
		}
		wantState(t, pod, redirect.Capture)
		for _, to := range []string{peer4, peer6} {
			wantProxy(t, mustDial(t, pod, hostPort(to, 9080), socket.DialConfig{}))
		}
	})
}

// What an agent had pinned is there still when the next one can't load programs any more, as with fewer capabilities (here: the folder in
// which it tries is in use). Its pods get nft, and in the end nothing is left in them that would cut them off.
func TestPodsOfABrokenEbpfGetNft(t *testing.T) {
	useEngine(t, string(redirect.EBPF))
	pod, peer := newPair(t)
	for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
		announcer(t, pod, port)
	}
	app(t, pod, "the pod", 9080)
	app(t, peer, "the peer", 9080)
	set(t, pod, redirect.Capture)
	tried, err := filepath.Glob(filepath.Join(under.pins, "tulle-*"))
	if err != nil || len(tried) != 1 {
		t.Fatalf("pinned in %v, %v", tried, err)
	}
	busy := filepath.Join(tried[0], fmt.Sprintf("probe-%d", os.Getpid()))
	if err := errors.Join(os.Mkdir(busy, 0o700), unix.Mount("none", busy, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(busy, 0) })
	next, err := redirect.New(redirect.Config{Engine: redirect.Auto, Pins: under.pins, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	under.Engines = next
	if err := next.Set(pod.Netns, desired(t, pod, redirect.Capture)); err != nil {
		t.Fatal(err)
	}
	wantEngine(t, pod, redirect.NFT)
	for _, to := range []string{peer4, peer6} {
		wantProxy(t, mustDial(t, pod, hostPort(to, 9080), socket.DialConfig{}))
	}
	set(t, pod, redirect.Removed)
	for from, paths := range map[*netns.Namespace][]string{pod: {peer4, peer6}, peer: {pod4, pod6}} {
		for _, to := range paths {
			if l := mustDial(t, from, hostPort(to, 9080), socket.DialConfig{}); !strings.HasPrefix(l.banner, "the ") {
				t.Errorf("%s: %q answers", to, l.banner)
			}
		}
	}
}

// Where programs can't be loaded (here: nothing could be pinned), pods get nft before any of them is captured; whoever asks for ebpf
// alone is told.
func TestWithoutEbpfPodsGetNft(t *testing.T) {
	useEngine(t, string(redirect.NFT))
	pod, _ := newPair(t)
	var log strings.Builder
	engines, err := redirect.New(redirect.Config{Engine: redirect.Auto, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := engines.Set(pod.Netns, redirect.Desired{State: redirect.Capture}); err != nil {
		t.Fatal(err)
	}
	wantEngine(t, pod, redirect.NFT)
	if !strings.Contains(log.String(), "pods get nft") {
		t.Errorf("the log doesn't say why: %s", &log)
	}
	if _, err := redirect.New(redirect.Config{Engine: string(redirect.EBPF), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("ebpf alone is accepted although it can't work")
	}
}

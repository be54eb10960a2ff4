package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

// checkPrivileges finds out now, with words, what would fail in every pod. Where keeping clients' addresses is left to us,
// it settles whether that is possible.
func checkPrivileges(cfg *config.Config, log *slog.Logger) error {
	var own *socket.Netns // nil: a dedicated ztunnel never leaves it
	if cfg.Workload == (config.Workload{}) {
		var err error
		if own, err = socket.OpenNetns("/proc/self/ns/net"); err != nil {
			return err
		}
		defer own.Close()
		if err := own.Do(func() error { return nil }); err != nil {
			return fmt.Errorf("ztunnel must be able to enter network namespaces; give it CAP_SYS_ADMIN: %w", err)
		}
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	l, err := own.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(loopback, 0), Mark: cfg.Sockets.Mark})
	if err != nil {
		return fmt.Errorf("ztunnel must be able to mark packets; give it CAP_NET_ADMIN: %w", err)
	}
	defer l.Close()
	if err := checkDNS(own, cfg); err != nil {
		return err
	}
	err = keepSource(own, l)
	switch {
	case err == nil || cfg.Sockets.Source == config.SourceNever:
		return nil
	case cfg.Sockets.Source == config.SourceRequired:
		return fmt.Errorf("ENABLE_ORIG_SRC: true, but the client's address can't be kept; give ztunnel CAP_NET_ADMIN: %w", err)
	}
	cfg.Sockets.Source = config.SourceNever
	log.Warn("applications won't see their clients' addresses", "err", err)
	return nil
}

// checkDNS looks whether questions could be answered in the name of the servers that pods ask, as they are where capture leaves
// addresses alone. That somebody has the port is as good as to get it.
func checkDNS(own *socket.Netns, cfg *config.Config) error {
	if !cfg.DNS.Capture {
		return nil
	}
	server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 53}), 53)
	conn, err := own.ListenUDP(socket.ListenConfig{Addr: server, Mark: cfg.Sockets.Mark, Transparent: true, ReusePort: true})
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("with ISTIO_META_DNS_CAPTURE ztunnel must be able to answer as DNS servers do; give it CAP_NET_BIND_SERVICE: %w", err)
	}
	if err != nil {
		return nil
	}
	return conn.Close()
}

// keepSource dials as inbound does.
func keepSource(own *socket.Netns, l *net.TCPListener) error {
	to := socket.Unmap(l.Addr())
	conn, err := own.Dial(context.Background(), to, socket.DialConfig{Source: to.Addr(), Timeout: time.Second})
	if err != nil {
		return err
	}
	return conn.Close()
}

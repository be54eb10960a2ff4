// Package admin serves what operators look at over HTTP: readiness, configuration, log levels, profiles, debug pages.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	maxConnections = 128
	maxBody        = 1 << 20
	maxHeader      = 16 << 10
)

// Config says what a server serves and where.
type Config struct {
	Addr    string // host:port; the host localhost means 127.0.0.1 and ::1, and none means every address
	Handler http.Handler
	Log     *slog.Logger
}

// Server is a running HTTP server with limits on time, connections and sizes.
type Server struct {
	http      *http.Server
	listeners []net.Listener
	running   sync.WaitGroup
}

// Start listens and serves until Close. That ::1 can't be had is only a warning: pods with IPv6 half switched off exist.
func Start(cfg Config) (*Server, error) {
	listeners, err := listen(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{listeners: listeners, http: &http.Server{
		Handler:           http.MaxBytesHandler(cfg.Handler, maxBody),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      6 * time.Minute, // a profile lasts up to 5
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}}
	room := NewRoom(s.http, maxConnections)
	for _, l := range listeners {
		s.running.Go(func() {
			if err := s.http.Serve(room.Listen(l)); !errors.Is(err, http.ErrServerClosed) {
				cfg.Log.Error("HTTP server ended", "addr", l.Addr().String(), "err", err)
			}
		})
	}
	return s, nil
}

func listen(cfg Config) ([]net.Listener, error) {
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: want host:port: %w", cfg.Addr, err)
	}
	if host != "localhost" {
		l, err := net.Listen("tcp", cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
		}
		return []net.Listener{l}, nil
	}
	v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, fmt.Errorf("listen on 127.0.0.1:%s: %w", port, err)
	}
	_, port, _ = net.SplitHostPort(v4.Addr().String()) // the same one where 0 let the kernel choose
	v6, err := net.Listen("tcp6", net.JoinHostPort("::1", port))
	if err != nil {
		cfg.Log.Warn("not reachable by IPv6", "addr", net.JoinHostPort("::1", port), "err", err)
		return []net.Listener{v4}, nil
	}
	return []net.Listener{v4, v6}, nil
}

// Addrs returns the addresses listened on.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Role is a server of a program, which has several.
type Role struct {
	Name, Addr string
	Handler    http.Handler
}

// StartAll starts a server for each role, or none, and returns what closes them.
func StartAll(roles []Role, log *slog.Logger) (closeAll func(), err error) {
	var servers []*Server
	closeAll = func() {
		for _, s := range servers {
			s.Close()
		}
	}
	for _, role := range roles {
		s, err := Start(Config{Addr: role.Addr, Handler: role.Handler, Log: log})
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("server of %s: %w", role.Name, err)
		}
		servers = append(servers, s)
		log.Info("server", "of", role.Name, "addr", s.Addrs()[0].String())
	}
	return closeAll, nil
}

// Close lets running requests finish for a second, then cuts them, and waits for the server to end.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	s.running.Wait()
}

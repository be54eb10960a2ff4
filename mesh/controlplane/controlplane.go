// Package controlplane opens the authenticated gRPC channel to the control plane, over which configuration and
// certificates come.
package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

const (
	maxMessage     = 200 << 20 // one push can hold a whole mesh
	connectTimeout = 5 * time.Second
	pingAfter      = 30 * time.Second // of silence
	pingTimeout    = 10 * time.Second
)

// Window is how much the control plane may send before it is read, in bytes. A window that gRPC finds out by itself costs a ping
// and its answer with every change of the mesh, of each node.
const Window = 1 << 20

// Config is where the control plane is and how both sides prove who they are.
type Config struct {
	// Address is host:port or https://host:port.
	Address string
	// RootCA is what the server's certificate must lead to: the path of a PEM file, read anew for each connection, or
	// PEM text, or SYSTEM for the roots of this machine.
	RootCA string
	// ServerName is the name in the server's certificate if that isn't the host of Address.
	ServerName string
	// PostQuantum allows only the key exchange X25519MLKEM768.
	PostQuantum bool
	// Token proves who we are: the path of a file, read anew for each call, or the token itself. Empty sends none.
	Token string
	// ClusterID is sent with each call unless empty.
	ClusterID string
	// Headers are sent with each call.
	Headers map[string]string
}

// Dial returns a channel to the control plane. It connects when it is first used and reconnects by itself, after 10 ms
// at first and 15 s at most. Files that can't be read yet are no error but logged: they may come later, and until then
// calls fail and say so.
func Dial(config Config, log *slog.Logger) (*grpc.ClientConn, error) {
	target, err := target(config.Address)
	if err != nil {
		return nil, err
	}
	roots := newRoots(config.RootCA)
	if _, err := roots.load(); err != nil {
		if !roots.mayMend() {
			return nil, err
		}
		log.Warn("can't connect to the control plane yet", "address", config.Address, "err", err)
	}
	calls := newCallHeaders(config)
	if _, err := calls.GetRequestMetadata(context.Background()); err != nil {
		log.Warn("can't call the control plane yet", "address", config.Address, "err", err)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport{roots: roots, serverName: config.ServerName, postQuantum: config.PostQuantum}),
		grpc.WithPerRPCCredentials(calls),
		grpc.WithUnaryInterceptor(refusal{config.Token}.unary),
		grpc.WithStreamInterceptor(refusal{config.Token}.stream),
		grpc.WithContextDialer(dial),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithStaticStreamWindowSize(Window), grpc.WithStaticConnWindowSize(Window),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 15 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
	}
	if config.ServerName != "" {
		options = append(options, grpc.WithAuthority(config.ServerName))
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("control plane %s: %w", config.Address, err)
	}
	return conn, nil
}

// target returns the address in gRPC's form.
func target(address string) (string, error) {
	hostPort, scheme := address, "https"
	if before, after, found := strings.Cut(address, "://"); found {
		scheme, hostPort = before, strings.TrimSuffix(after, "/")
	}
	host, port, err := net.SplitHostPort(hostPort)
	switch {
	case scheme != "https":
		return "", fmt.Errorf("control plane address %q: tokens are sent over TLS only, so it has to begin with https://", address)
	case err != nil || host == "" || port == "":
		return "", fmt.Errorf("control plane address %q: want https://host:port", address)
	}
	return "dns:///" + hostPort, nil
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout:         connectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 300 * time.Second, Interval: 75 * time.Second, Count: 9},
	}
	return dialer.DialContext(ctx, "tcp", address)
}

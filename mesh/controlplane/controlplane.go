// Package controlplane opens the authenticated gRPC channel to the control plane, over which configuration and
// certificates come.
package controlplane

import (
	"errors"
	"log/slog"

	"google.golang.org/grpc"
)

// Config is where the control plane is and how both sides prove who they are.
type Config struct {
	// Address is host:port or https://host:port.
	Address string
	// RootCA is what the server's certificate must lead to: the path of a PEM file, read anew for each connection, or
	// PEM text, or SYSTEM for the roots of this machine.
	RootCA string
	// ServerName is the name in the server's certificate if that isn't the host of Address.
	ServerName string
	// Token proves who we are: the path of a file, read anew for each call, or the token itself. Empty sends none.
	Token string
	// ClusterID is sent with each call unless empty.
	ClusterID string
	// Headers are sent with each call.
	Headers map[string]string
}

// Dial returns a channel to the control plane. It connects when it is first used and reconnects by itself.
func Dial(config Config, log *slog.Logger) (*grpc.ClientConn, error) {
	return nil, errors.New("not there yet")
}

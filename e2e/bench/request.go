package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/tulle-mesh/tulle/cli/wire"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// maxBody is more than a metrics page or a CPU profile.
const maxBody = 64 << 20

// get asks a server inside a namespace. The context must have a deadline.
func get(ctx context.Context, netns *wire.Netns, url string) ([]byte, error) {
	client := clientIn(netns)
	defer client.CloseIdleConnections()
	return fetch(ctx, client, url)
}

// clientIn makes HTTP requests to literal addresses from inside a namespace.
func clientIn(netns *wire.Netns) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		return netns.Dial(ctx, to, socket.DialConfig{})
	}}}
}

func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", url, response.Status)
	}
	return body, err
}

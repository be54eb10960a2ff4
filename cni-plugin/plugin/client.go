package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	deadline   = 5 * time.Second // of a whole request
	maxBody    = 1 << 20         // bytes, of a request or an answer
	pathAdd    = "/cmdadd"
	pathCheck  = "/cmdcheck"
	pathDel    = "/cmddel"
	pathStatus = "/status"
)

// client is the plugin's end of the socket.
type client struct {
	socket string
	http   *http.Client
}

func newClient(socket string) *client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &client{socket: socket, http: &http.Client{
		Timeout:   deadline,
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}}
}

func (c *client) add(ctx context.Context, r Request) (Reply, error) {
	answer, err := c.ask(ctx, http.MethodPost, pathAdd, r)
	if err != nil {
		return Reply{}, err
	}
	if len(answer) == 0 {
		return Reply{Enrolled: true}, nil // Istio's agent says no more than 200
	}
	var reply Reply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return Reply{}, fmt.Errorf("answer of the node agent: %w", err)
	}
	return reply, nil
}

func (c *client) check(ctx context.Context, r Request) error {
	_, err := c.ask(ctx, http.MethodPost, pathCheck, r)
	return err
}

func (c *client) del(ctx context.Context, r Request) error {
	_, err := c.ask(ctx, http.MethodPost, pathDel, r)
	return err
}

func (c *client) status(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodGet, pathStatus, nil)
	return err
}

func (c *client) ask(ctx context.Context, method, path string, body any) ([]byte, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://unix"+path, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot contact the node agent at %s: %w: is it running on this node?", c.socket, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("answer of the node agent: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the node agent refuses: %s", strings.TrimSpace(string(answer)))
	}
	return answer, nil
}

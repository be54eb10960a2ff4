package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// maxBody bounds what a request of the demo reads of an answer: 4 MiB.
const maxBody = 4 << 20

// Dial connects from inside a node's or pod's namespace, as any program there would.
func (c *Cluster) Dial(ctx context.Context, place string, to netip.AddrPort) (*net.TCPConn, error) {
	netns, err := c.Netns(place)
	if err != nil {
		return nil, err
	}
	return netns.Dial(ctx, to, socket.DialConfig{})
}

// Get requests a URL from inside a namespace over a new connection, and returns the answer's body. Hosts are addresses;
// a status other than 200 is an error.
func (c *Cluster) Get(ctx context.Context, place, url string) (string, error) {
	client, err := c.client(place)
	if err != nil {
		return "", err
	}
	return get(ctx, client, url)
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s: %.200s", url, response.Status, body)
	}
	return string(body), nil
}

// Load is a stream of requests that runs while things change, each over a new connection, and counts.
type Load struct {
	cancel          context.CancelFunc
	workers         sync.WaitGroup
	finished, fails atomic.Uint64
	last            atomic.Pointer[error]
}

// StartLoad requests a URL from inside a pod again and again, by the given number of workers with a pause after each
// request, until Stop or the end of ctx.
func (c *Cluster) StartLoad(ctx context.Context, pod, url string, workers int, pause time.Duration) (*Load, error) {
	client, err := c.client(pod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cancel: cancel}
	for range workers {
		l.workers.Go(func() { l.work(ctx, client, url, pause) })
	}
	return l, nil
}

func (l *Load) work(ctx context.Context, client *http.Client, url string, pause time.Duration) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		// Not bound to ctx: the request that runs at the end may finish, else it would count as failed.
		if _, err := get(context.WithoutCancel(ctx), client, url); err != nil {
			l.fails.Add(1)
			l.last.Store(&err)
		}
		l.finished.Add(1)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Count returns the requests so far, and how many of them failed.
func (l *Load) Count() (finished, failed uint64) { return l.finished.Load(), l.fails.Load() }

// Err is the latest failure, or nil.
func (l *Load) Err() error {
	if err := l.last.Load(); err != nil {
		return *err
	}
	return nil
}

// Stop ends the load and waits for its last requests.
func (l *Load) Stop() {
	l.cancel()
	l.workers.Wait()
}

// Held is one keep-alive connection that is used again and again. It never dials a second time.
type Held struct {
	conn      *net.TCPConn
	url       string
	exchanges atomic.Uint64
	done      chan struct{} // closed when the connection is of no use any more
	err       error         // why; read after done
	stop      chan struct{}
	stopOnce  sync.Once
}

// Hold opens a connection from inside a pod and sends a request over it every pause.
func (c *Cluster) Hold(ctx context.Context, pod string, to netip.AddrPort, pause time.Duration) (*Held, error) {
	conn, err := c.Dial(ctx, pod, to)
	if err != nil {
		return nil, fmt.Errorf("open a connection to hold: %w", err)
	}
	h := &Held{conn: conn, url: "http://" + to.String() + "/", done: make(chan struct{}), stop: make(chan struct{})}
	go h.loop(pause)
	if err := AwaitWithin(ctx, 5*time.Second, "the first answer on the held connection", func(context.Context) error {
		if err := h.Err(); err != nil {
			return hopeless{err}
		}
		if h.Exchanges() == 0 {
			return errors.New("no answer yet")
		}
		return nil
	}); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Held) loop(pause time.Duration) {
	defer close(h.done)
	defer h.conn.Close()
	answers := bufio.NewReader(h.conn)
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if h.err = h.exchange(answers); h.err != nil {
			return
		}
		h.exchanges.Add(1)
		select {
		case <-h.stop:
			return
		case <-ticker.C:
		}
	}
}

func (h *Held) exchange(answers *bufio.Reader) error {
	if err := h.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodGet, h.url, nil)
	if err != nil {
		return err
	}
	if err := request.Write(h.conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(answers, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxBody)); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || response.Close {
		return fmt.Errorf("%s answered %s (close: %v)", h.url, response.Status, response.Close)
	}
	return nil
}

// Exchanges is how many requests have been answered over the connection.
func (h *Held) Exchanges() uint64 { return h.exchanges.Load() }

// Done is closed when the connection has broken or was closed.
func (h *Held) Done() <-chan struct{} { return h.done }

// Err tells why the connection broke; nil while it lives, and after Close.
func (h *Held) Err() error {
	select {
	case <-h.done:
		return h.err
	default:
		return nil
	}
}

// Fresh waits until one more request has been answered, which proves that the connection still works.
func (h *Held) Fresh(ctx context.Context) error {
	before := h.Exchanges()
	return AwaitWithin(ctx, 10*time.Second, "an answer on the held connection", func(context.Context) error {
		if err := h.Err(); err != nil {
			return hopeless{fmt.Errorf("it broke: %w", err)}
		}
		if h.Exchanges() < before+2 { // One of them may have begun before the call.
			return errors.New("no fresh answer yet")
		}
		return nil
	})
}

// Local is the connection's own address, which the other side prints as its peer.
func (h *Held) Local() netip.AddrPort { return h.conn.LocalAddr().(*net.TCPAddr).AddrPort() }

// Close ends the connection and returns why it had broken before, if it had.
func (h *Held) Close() error {
	h.stopOnce.Do(func() { close(h.stop) })
	<-h.done
	return h.err
}

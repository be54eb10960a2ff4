package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// nowhere are addresses at which nobody ever answers, for they are kept for documentation (RFC 5737, RFC 3849): if a
// connection from a pod to them is taken, it was the proxy who took it.
var nowhere = []string{"192.0.2.1:9", "[2001:db8::1]:9"}

// verifyDeadline bounds each connection.
const verifyDeadline = 2 * time.Second

// verify answers whether the pod of ?pod=namespace/name is captured, by a connection from its network namespace.
func (d *daemon) verify(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("pod")
	for _, v := range d.agent.Views() {
		if v.Pod != name {
			continue
		}
		p := d.lookInto(v)
		if err := captured(r.Context(), v.Netns); err != nil {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprintf(w, "pod %s isn't captured: %v (it is %s because: %s; in its network namespace: %s)\n", name, err, v.State, v.Why, p.Capture)
			return
		}
		fmt.Fprintf(w, "pod %s is captured: a connection to %s, where nobody is, was taken by the proxy (engine %s)\n", name, nowhere[0], p.Engine)
		return
	}
	http.Error(w, fmt.Sprintf("pod %.100q isn't on this node: want ?pod=NAMESPACE/NAME", name), http.StatusNotFound)
}

// captured returns nil if the proxy takes connections of the namespace at path.
func captured(ctx context.Context, path string) error {
	if path == "" {
		return errors.New("it has no network namespace")
	}
	ns, err := socket.OpenNetns(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	for _, to := range nowhere {
		err = ns.Do(func() error { // the socket is made on this thread, so in the pod
			conn, err := (&net.Dialer{Timeout: verifyDeadline}).DialContext(ctx, "tcp", to)
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
			return err
		}
	}
	return err
}

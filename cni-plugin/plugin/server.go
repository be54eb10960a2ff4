package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// handlerDeadline leaves time for the answer to reach the plugin before it gives up.
const handlerDeadline = deadline - 500*time.Millisecond

// maxRequests bounds the plugins served at once; more wait in the socket's backlog.
const maxRequests = 128

// Handler is the agent's side of the verbs. The contexts end before the plugin gives up.
type Handler struct {
	Add   func(context.Context, Request) (Reply, error)
	Check func(context.Context, Request) error
	Del   func(context.Context, Request) error
	Ready func() error // nil when pods can be taken in
}

// Serve answers plugins until ctx ends. It takes the listener over.
func Serve(ctx context.Context, listener net.Listener, handler Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           http.MaxBytesHandler(http.TimeoutHandler(handler.mux(log), deadline, "the node agent is too slow"), maxBody),
		ReadHeaderTimeout: deadline, ReadTimeout: deadline, WriteTimeout: 2 * deadline, IdleTimeout: deadline, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	var group sync.WaitGroup
	defer group.Wait()
	stop := make(chan struct{})
	defer close(stop)
	group.Go(func() {
		select {
		case <-ctx.Done():
		case <-stop:
		}
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadline)
		defer cancel()
		if server.Shutdown(shutdown) != nil {
			server.Close()
		}
	})
	if err := server.Serve(netutil.LimitListener(listener, maxRequests)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve plugins: %w", err)
	}
	return nil
}

// Listen makes the agent's socket at path, in the place of a dead agent's. It refuses to take it from an agent that still
// answers there, so whoever has the socket is the node's only agent.
func Listen(path string) (net.Listener, error) {
	listener, err := socket.ListenUnix("unix", path)
	if err != nil {
		return nil, fmt.Errorf("serve plugins: %w", err)
	}
	return listener, nil
}

func (h Handler) mux(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+pathAdd, answering(log, "ADD", h.Add))
	mux.Handle("POST "+pathCheck, answering(log, "CHECK", without(h.Check)))
	mux.Handle("POST "+pathDel, answering(log, "DEL", without(h.Del)))
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) {
		if err := h.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}

// without gives a verb that has no reply an empty one.
func without(f func(context.Context, Request) error) func(context.Context, Request) (Reply, error) {
	return func(ctx context.Context, r Request) (Reply, error) { return Reply{}, f(ctx, r) }
}

func answering(log *slog.Logger, verb string, f func(context.Context, Request) (Reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := readRequest(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), handlerDeadline)
		defer cancel()
		reply, err := f(ctx, request)
		log.Info("plugin", "verb", verb, "pod", request.PodNamespace+"/"+request.PodName, "netns", request.Netns, "enrolled", reply.Enrolled, "err", err)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply) // a plugin that is gone needs no answer
	})
}

func readRequest(r *http.Request) (Request, error) {
	var request Request
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		return request, fmt.Errorf("request: %w", err)
	}
	if request.PodName == "" || request.PodNamespace == "" {
		return request, fmt.Errorf("request: which pod? want PodName and PodNamespace")
	}
	return request, nil
}

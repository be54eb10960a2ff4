package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admission "k8s.io/api/admission/v1"

	"github.com/tulle-mesh/tulle/mesh/admin"
)

// What anybody who reaches the port can make the control plane hold.
const (
	// maxBody is more than an object before and after a change, of 1.5 MiB each, can be in JSON.
	maxBody = 8 << 20
	// maxBodies bounds what has come of all bodies together, in bytes. Who sends slowly takes nothing of it.
	maxBodies = 64 << 20
	// maxReviews is how many are judged at once.
	maxReviews = 8
	// maxConnections are held, with so many requests on each. Another makes an idle one go.
	maxConnections, maxStreams = 128, 32
)

// Config is what a Server needs.
type Config struct {
	Listener net.Listener
	// TLS has the control plane's certificate.
	TLS      *tls.Config
	Registry *prometheus.Registry
	Log      *slog.Logger
}

// Server answers the API server.
type Server struct {
	cfg            Config
	room           atomic.Int64  // bytes that bodies may still have
	slots          chan struct{} // one taken for each review
	passed, failed *prometheus.CounterVec
}

// NewServer makes a Server.
func NewServer(c Config) *Server {
	s := &Server{
		cfg: c, slots: make(chan struct{}, maxReviews),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "galley_validation_passed", Help: "Objects that the webhook let pass.",
		}, []string{"group", "version", "resource"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "galley_validation_failed", Help: "Objects that the webhook refused.",
		}, []string{"group", "version", "resource", "reason"}),
	}
	s.room.Store(maxBodies)
	c.Registry.MustRegister(s.passed, s.failed)
	return s
}

// Run serves until the context ends, which isn't an error.
func (s *Server) Run(ctx context.Context) error {
	config := s.cfg.TLS.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams}, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		// What is being judged is still answered.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			server.Close()
		}
	})()
	err := server.Serve(admin.NewRoom(server, maxConnections).Listen(tls.NewListener(s.cfg.Listener, config)))
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve webhook: %w", err)
}

// ServeHTTP answers one question.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.URL.Path != "/validate" && r.URL.Path != "/validate/":
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	case err != nil || media != "application/json":
		http.Error(w, "want application/json", http.StatusUnsupportedMediaType)
		return
	}
	s.answer(w, r)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	arriving := &bodyReader{from: http.MaxBytesReader(w, r.Body, maxBody), room: &s.room}
	defer arriving.close()
	body, err := io.ReadAll(arriving)
	var large *http.MaxBytesError
	switch {
	case errors.Is(err, errNoRoom):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	case errors.As(err, &large):
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, "read: "+err.Error(), http.StatusBadRequest)
		return
	case len(body) == 0:
		http.Error(w, "empty body", http.StatusBadRequest)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return // the API server has given up
	}
	answer, asked, said, err := review(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.count(asked, said)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the API server asks again, or refuses the object
}

var errNoRoom = errors.New("too much is being read for others")

// bodyReader reads a body within the room that all bodies share.
type bodyReader struct {
	from  io.Reader
	room  *atomic.Int64
	taken int64
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	b.taken += int64(n)
	if b.room.Add(int64(-n)) < 0 {
		return 0, errNoRoom
	}
	return n, err
}

func (b *bodyReader) close() { b.room.Add(b.taken) }

func (s *Server) count(asked *admission.AdmissionRequest, said verdict) {
	kind, known := find(asked.Kind)
	if !known {
		return // its names are whatever the sender likes
	}
	version := "other"
	for _, v := range kind.Versions {
		if v == asked.Kind.Version {
			version = v
		}
	}
	if said.err == nil {
		s.passed.WithLabelValues(kind.Group, version, kind.Resource).Inc()
		return
	}
	s.failed.WithLabelValues(kind.Group, version, kind.Resource, "invalid_resource").Inc()
	s.cfg.Log.Info("object refused", "kind", kind.Kind, "object", asked.Namespace+"/"+asked.Name, "user", asked.UserInfo.Username, "err", said.err)
}

// Package zds is the node agent's end of the socket over which the node's tunnel proxies learn which pods they serve.
//
// Each request is one packet and is answered before the next one is sent. A proxy that connects is first told of every
// pod (a snapshot), then of changes. Several proxies may be connected while one replaces another: the one that started last gets
// the pods, all hear of removals.
package zds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/handover"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Workload is a pod as proxies know it.
type Workload struct {
	UID, Namespace, Name, ServiceAccount string
}

// ErrNoProxy says that no proxy is connected, or that the last one went away before it answered.
var ErrNoProxy = errors.New("no tunnel proxy is connected to the agent: is ztunnel running on this node?")

// refusedError is a proxy's answer that it can't do what was asked. The connection stays.
type refusedError struct {
	Reason string // the proxy's words
}

// Error quotes the proxy.
func (e *refusedError) Error() string { return "the tunnel proxy refused: " + e.Reason }

const (
	answerTimeout  = 5 * time.Second        // for each packet in either direction
	acceptInterval = 200 * time.Millisecond // at most five connections a second
	maxConnections = 16
)

// Server serves the socket. Its methods may be called from any goroutine.
type Server struct {
	log       *slog.Logger
	snapshots chan struct{}
	listen    func(socket.NetnsID, socket.Given) error // set before Serve
	sendsDNS  bool                                     // set before Serve

	keeper *keeper // its lock comes after mu

	mu          sync.Mutex
	pods        map[string]pod
	connections []*connection // oldest first
}

// pod is a workload that proxies should serve, with its network namespace.
type pod struct {
	workload Workload
	netns    *os.File // owned by the server
	home     socket.NetnsID
	verdict  verdict // of the proxy that was told of it last
}

// verdict is what a proxy said about a pod.
type verdict uint8

const (
	unasked verdict = iota // no proxy was told since the pod was registered; the next snapshot tells
	accepted
	declined
)

// NewServer makes a server without a socket: pods can be registered before Serve lets proxies in.
func NewServer(log *slog.Logger) *Server {
	s := &Server{log: log, snapshots: make(chan struct{}, 1), pods: map[string]pod{}, listen: func(socket.NetnsID, socket.Given) error { return nil }}
	s.keeper = newKeeper(func(uid string) {
		log.Warn("no tunnel proxy has come to take over a pod's listeners, its connections are refused until then", "uid", uid, "after", orphanTime)
	})
	return s
}

// Snapshots receives a value after a proxy has taken a snapshot, which is a good moment to retry what failed. Several
// snapshots may be one value.
func (s *Server) Snapshots() <-chan struct{} { return s.snapshots }

// OnListeners has a function hear of a pod's listeners as soon as a proxy has handed them over. It must be quick, and they stay the
// server's. Call it before Serve.
func (s *Server) OnListeners(listen func(home socket.NetnsID, listeners socket.Given) error) {
	s.listen = listen
}

// SendsDNS says whether pods' DNS questions go to proxies, so that one which thinks otherwise is told of. Call it before Serve.
func (s *Server) SendsDNS(sends bool) { s.sendsDNS = sends }

// Disagreement says what the newest proxy and the agent think differently of, and what to do; "" if nothing.
func (s *Server) Disagreement() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.connections) == 0 {
		return ""
	}
	return disagreement(s.sendsDNS, s.connections[len(s.connections)-1].can.dns)
}

// disagreement compares who sends questions with who answers them.
func disagreement(sends bool, answers *bool) string {
	switch {
	case answers == nil || *answers == sends:
		return ""
	case sends:
		return "the agent's --dns-capture sends pods' DNS questions to ztunnel, which answers none: set ISTIO_META_DNS_CAPTURE=true there, or --dns-capture=false here"
	}
	return "ztunnel's ISTIO_META_DNS_CAPTURE has it answer pods' DNS questions, which the agent sends there only for pods that say so (ambient.istio.io/dns-capture): set --dns-capture here for all, or ISTIO_META_DNS_CAPTURE=false there if none does"
}

// Listeners duplicates the listeners of the proxy that was last told of a pod; nil if it hands none over.
func (s *Server) Listeners(uid string) (socket.Given, error) { return s.keeper.offer(uid) }

// Connected is the number of proxies.
func (s *Server) Connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.connections)
}

// Registered lists the pods a snapshot would name, by UID.
func (s *Server) Registered() []Workload {
	s.mu.Lock()
	defer s.mu.Unlock()
	var workloads []Workload
	for _, pod := range s.pods {
		workloads = append(workloads, pod.workload)
	}
	slices.SortFunc(workloads, func(a, b Workload) int { return strings.Compare(a.UID, b.UID) })
	return workloads
}

// Knows tells whether a pod is registered.
func (s *Server) Knows(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pods[uid]
	return ok
}

// Served tells whether nothing is left to say about the pod: the proxy that was last told of it took it, or it is
// registered and there is no proxy, so that the next one is told by its snapshot.
func (s *Server) Served(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod, ok := s.pods[uid]
	return ok && (pod.verdict == accepted || pod.verdict == unasked && len(s.connections) == 0)
}

// Refused tells whether the proxy that was last told of the pod, in a snapshot or by Add, refused to serve it.
func (s *Server) Refused(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods[uid].verdict == declined
}

// note keeps what a proxy answered about a pod, and the listeners that came with it, which it takes over.
func (s *Server) note(uid string, by *connection, said verdict, sockets socket.Given) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod, ok := s.pods[uid]
	if !ok {
		sockets.Close()
		return
	}
	if s.keeper.served(uid, s.after(by)) {
		// By a proxy that started later. This one only goes on with what it has.
		s.keeper.also(uid, by, sockets)
		return
	}
	pod.verdict = said
	s.pods[uid] = pod
	if said != accepted {
		return
	}
	if err := sockets.Verify(pod.home); err != nil {
		s.log.Warn("tunnel proxy hands over what isn't a listener of the pod", "uid", uid, "err", err)
	}
	if err := s.listen(pod.home, sockets); err != nil {
		s.log.Error("new connections of a pod don't come to its new listeners yet", "uid", uid, "err", err)
	}
	s.keeper.took(uid, by, sockets)
}

// Register names a pod in snapshots from now on, without telling connected proxies. It takes netns over. A restarted
// agent registers what was enrolled before it calls Serve: a snapshot without a pod ends its connections.
func (s *Server) Register(w Workload, netns *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registerLocked(w, netns)
}

func (s *Server) registerLocked(w Workload, netns *os.File) {
	home, err := socket.IdentifyNetns(netns)
	if err != nil {
		s.log.Error("pod with a network namespace that is none", "uid", w.UID, "err", err) // proxies will refuse it
	}
	if old, ok := s.pods[w.UID]; ok {
		old.netns.Close()
		if old.home != home {
			s.keeper.drop(w.UID)
		}
	}
	s.pods[w.UID] = pod{workload: w, netns: netns, home: home}
}

// Add registers a pod and returns when the newest proxy has opened its listeners in it; when that proxy goes away
// meanwhile, the one before it is asked. It takes netns over. The error is a refusal, ErrNoProxy or ctx's; the pod
// stays registered after an error, until Del.
func (s *Server) Add(ctx context.Context, w Workload, netns *os.File) error {
	if _, err := addRequest(w, nil, true); err != nil {
		netns.Close()
		return fmt.Errorf("add pod %s/%s to the proxy: %w", w.Namespace, w.Name, err)
	}
	s.mu.Lock()
	s.registerLocked(w, netns)
	s.mu.Unlock()
	for {
		newest := s.newest()
		if newest == nil {
			return fmt.Errorf("add pod %s/%s to the proxy: %w", w.Namespace, w.Name, ErrNoProxy)
		}
		err := newest.ask(ctx, request{add: w.UID})
		if errors.Is(err, errGone) {
			s.drop(ctx, newest)
			continue
		}
		if err != nil {
			return fmt.Errorf("add pod %s/%s to the proxy: %w", w.Namespace, w.Name, err)
		}
		return nil
	}
}

// Del forgets a pod and returns when every connected proxy has ended its connections; a proxy that can tells the peers of the
// pod's tunnels first. It is no error if a proxy, or all of them, didn't know the pod or went away.
func (s *Server) Del(ctx context.Context, uid string) error {
	s.mu.Lock()
	if old, ok := s.pods[uid]; ok {
		old.netns.Close()
		delete(s.pods, uid)
	}
	s.keeper.drop(uid)
	connections := slices.Clone(s.connections)
	s.mu.Unlock()
	stop, stopErr := stopRequest(uid)
	del, err := delRequest(uid)
	if err := errors.Join(stopErr, err); err != nil {
		return fmt.Errorf("remove pod %s from the proxy: %w", uid, err)
	}
	var group sync.WaitGroup
	failures := make([]error, len(connections))
	for i, c := range connections {
		group.Go(func() {
			if c.can.stopping {
				_ = c.ask(ctx, request{packet: stop}) // what goes wrong there goes wrong with del too
			}
			if err := c.ask(ctx, request{packet: del}); err != nil && !errors.Is(err, errGone) {
				failures[i] = fmt.Errorf("remove pod %s from the proxy: %w", uid, err)
			}
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

// addition builds the request for a registered pod with its descriptors, which the caller closes.
func (s *Server) addition(uid string, can abilities) (packet []byte, files handover.Packet, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod, ok := s.pods[uid]
	if !ok {
		return nil, files, errRemoved
	}
	netns, err := duplicate(pod.netns)
	if err != nil {
		return nil, files, err
	}
	files.Files = []int{netns}
	if can.handOver {
		given, err := s.keeper.offer(uid)
		list, fds := handover.Pack(given)
		if err == nil {
			packet, err = addRequest(pod.workload, list, true)
		}
		if err == nil {
			files.Files = append(files.Files, fds...)
			return packet, files, nil
		}
		given.Close()
		s.log.Warn("listeners of a pod can't be handed to the tunnel proxy, it opens new ones", "uid", uid, "err", err)
	}
	packet, err = addRequest(pod.workload, nil, can.handOver)
	return packet, files, err
}

func duplicate(file *os.File) (fd int, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	if err := raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if failed != nil {
		return -1, fmt.Errorf("duplicate the namespace's descriptor: %w", failed)
	}
	return fd, nil
}

func (s *Server) newest() *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.connections) == 0 {
		return nil
	}
	return s.connections[len(s.connections)-1]
}

// after lists the connections of proxies that started later. The server is locked.
func (s *Server) after(c *connection) []*connection {
	at := slices.Index(s.connections, c)
	return s.connections[at+1:]
}

// drop forgets a proxy. Another that serves pods by listeners of its own is asked for these once more: new connections go to them from now on.
func (s *Server) drop(ctx context.Context, c *connection) {
	s.mu.Lock()
	s.connections = slices.DeleteFunc(s.connections, func(other *connection) bool { return other == c })
	left := s.keeper.gone(c)
	s.mu.Unlock()
	for _, uid := range left {
		newest := s.newest()
		if newest == nil {
			return
		}
		if err := newest.ask(ctx, request{add: uid}); err != nil && !errors.Is(err, errRemoved) {
			s.log.Warn("a pod's new connections don't come to the tunnel proxy that is left", "uid", uid, "err", err)
		}
	}
}

// Serve accepts proxies on the socket at path until ctx ends, then disconnects them, which they survive, and waits for
// its goroutines. It refuses to take the socket from an agent that still answers there.
func (s *Server) Serve(ctx context.Context, path string) error {
	listener, err := socket.ListenUnix("unixpacket", path) // who says hello receives every pod's namespace
	if err != nil {
		return fmt.Errorf("serve tunnel proxies: %w", err)
	}
	defer s.keeper.close()
	var group sync.WaitGroup
	defer group.Wait()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	for {
		conn, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			s.log.Warn("accept a tunnel proxy", "err", err)
		} else if s.Connected() >= maxConnections {
			s.log.Warn("too many tunnel proxies connected, refusing another", "connected", maxConnections)
			conn.Close()
		} else {
			group.Go(func() { s.serve(ctx, conn) })
		}
		select {
		case <-ctx.Done():
		case <-time.After(acceptInterval):
		}
	}
}

// Package fakeproxy connects to a node agent's socket as a tunnel proxy does, and answers as a test tells it to.
package fakeproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	maxPacket = 1024
	patience  = time.Minute
)

// Request is what the agent asked for.
type Request struct {
	Verb string // add, keep, stop, del or snapshot
	UID  string
	Pod  string // namespace/name (service account), with add
	// Netns is the pod's namespace, with add. It is closed after the answer.
	Netns *os.File
	// Given are another proxy's listeners, with add. They are closed after the answer.
	Given socket.Given
	// HandOver tells that the proxy's own are asked for.
	HandOver bool
}

// String is a request as tests compare it.
func (r Request) String() string {
	text := r.Verb
	if r.UID != "" {
		text += " " + r.UID
	}
	if r.Pod != "" {
		text += " " + r.Pod
	}
	return text
}

// Answer is how the proxy reacts. The zero value is success.
type Answer struct {
	Refuse     string // acknowledge with this error
	Silent     bool   // don't answer
	Disconnect bool
	Raw        []byte // answer with these bytes instead
	// Share are listeners that go along and are closed then. Files are descriptors that go along unlisted, and stay the test's.
	Share socket.Given
	Files []int
}

// Proxy is one connection.
type Proxy struct {
	t      testing.TB
	conn   *net.UnixConn
	answer func(Request) Answer
	done   chan struct{}

	mu  sync.Mutex
	log []string
}

// Connect says hello as a proxy of another project and answers requests from then on. A nil answer always succeeds. It retries
// while nobody listens.
func Connect(t testing.TB, socket string, answer func(Request) Answer) *Proxy {
	t.Helper()
	return connect(t, socket, &zds.ZdsHello{Version: zds.Version_V1}, answer)
}

// ConnectOwn is Connect for a proxy that can do all that Tulle's own can.
func ConnectOwn(t testing.TB, socket string, answer func(Request) Answer) *Proxy {
	t.Helper()
	return connect(t, socket, &zds.ZdsHello{Version: zds.Version_V1, HandOver: true, Stopping: true}, answer)
}

// ConnectStarted is ConnectOwn for a proxy that says when it started.
func ConnectStarted(t testing.TB, socket string, started uint64, answer func(Request) Answer) *Proxy {
	t.Helper()
	return connect(t, socket, &zds.ZdsHello{Version: zds.Version_V1, HandOver: true, Stopping: true, Started: started}, answer)
}

// ConnectDNS is ConnectOwn for a proxy that answers pods' DNS questions, or none, and says so.
func ConnectDNS(t testing.TB, socket string, answers bool) *Proxy {
	t.Helper()
	return connect(t, socket, &zds.ZdsHello{Version: zds.Version_V1, HandOver: true, Stopping: true, Dns: &answers}, nil)
}

func connect(t testing.TB, socket string, as *zds.ZdsHello, answer func(Request) Answer) *Proxy {
	t.Helper()
	if answer == nil {
		answer = func(Request) Answer { return Answer{} }
	}
	p := Dial(t, socket, answer)
	hello, err := proto.Marshal(as)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.conn.Write(hello); err != nil {
		t.Fatalf("say hello: %v", err)
	}
	go p.run()
	return p
}

// Dial connects without a hello, for tests of malformed packets, which go out by Send. Nothing is answered.
func Dial(t testing.TB, socket string, answer func(Request) Answer) *Proxy {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if err == nil {
			p := &Proxy{t: t, conn: conn, answer: answer, done: make(chan struct{})}
			t.Cleanup(p.Close)
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("connect to the agent: %v", err)
		}
		time.Sleep(time.Millisecond) // until the agent listens
	}
}

// Send sends a packet, as it is.
func (p *Proxy) Send(packet []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(packet); err != nil {
		p.t.Fatalf("send packet: %v", err)
	}
}

// Closed waits until the agent has closed the connection, for connections from Dial.
func (p *Proxy) Closed() bool {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := p.conn.Read(make([]byte, maxPacket))
	netErr, timeout := err.(net.Error)
	return n <= 0 && (!timeout || !netErr.Timeout())
}

// Close disconnects.
func (p *Proxy) Close() { p.conn.Close() }

// Done is closed when the connection has ended.
func (p *Proxy) Done() <-chan struct{} { return p.done }

// Log lists the requests so far.
func (p *Proxy) Log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.log)
}

func (p *Proxy) run() {
	defer close(p.done)
	defer p.conn.Close()
	for {
		request, err := p.read()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.log = append(p.log, request.String())
		p.mu.Unlock()
		answer := p.answer(request)
		if request.Netns != nil {
			request.Netns.Close()
		}
		request.Given.Close()
		if answer.Disconnect {
			return
		}
		if answer.Silent {
			continue
		}
		packet := answer.Raw
		list, files := handover.Pack(answer.Share)
		if packet == nil {
			ack := &zds.WorkloadResponse_Ack{Ack: &zds.Ack{Error: answer.Refuse, Listeners: list}}
			if packet, err = proto.Marshal(&zds.WorkloadResponse{Payload: ack}); err != nil {
				p.t.Error(err)
				return
			}
		}
		err = handover.Send(p.conn, packet, append(files, answer.Files...)...)
		answer.Share.Close()
		if err != nil {
			return
		}
	}
}

// read receives one request and reports what breaks the protocol.
func (p *Proxy) read() (Request, error) {
	packet, err := handover.Receive(p.conn)
	if errors.Is(err, handover.ErrTooLarge) {
		p.t.Error(err)
	}
	if err != nil || len(packet.Data) == 0 {
		return Request{}, fmt.Errorf("closed: %w", err)
	}
	var request zds.WorkloadRequest
	if err := proto.Unmarshal(packet.Data, &request); err != nil {
		p.t.Errorf("the agent sent garbage: %v", err)
		return Request{}, err
	}
	r := parse(&request)
	if want := r.Verb == "add"; want != (len(packet.Files) > 0) {
		p.t.Errorf("%s came with %d descriptors", r, len(packet.Files))
	}
	if len(packet.Files) > 0 {
		r.Netns = os.NewFile(uintptr(packet.Files[0]), "netns")
		if r.Given, err = handover.Unpack(request.GetAdd().GetListeners(), packet.Files[1:]); err != nil {
			p.t.Errorf("%s: %v", r, err)
		}
	}
	return r, nil
}

func parse(request *zds.WorkloadRequest) Request {
	switch payload := request.GetPayload().(type) {
	case *zds.WorkloadRequest_Add:
		info := payload.Add.GetWorkloadInfo()
		pod := fmt.Sprintf("%s/%s (%s)", info.GetNamespace(), info.GetName(), info.GetServiceAccount())
		return Request{Verb: "add", UID: payload.Add.GetUid(), Pod: pod, HandOver: payload.Add.GetHandOver()}
	case *zds.WorkloadRequest_Keep:
		return Request{Verb: "keep", UID: payload.Keep.GetUid()}
	case *zds.WorkloadRequest_Stop:
		return Request{Verb: "stop", UID: payload.Stop.GetUid()}
	case *zds.WorkloadRequest_Del:
		return Request{Verb: "del", UID: payload.Del.GetUid()}
	case *zds.WorkloadRequest_SnapshotSent:
		return Request{Verb: "snapshot"}
	}
	return Request{Verb: "unknown"}
}

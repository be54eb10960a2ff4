// Package fakeproxy connects to a node agent's socket as a tunnel proxy does, and answers as a test tells it to.
package fakeproxy

import (
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
)

const (
	maxPacket = 1024
	patience  = 10 * time.Second
)

// Request is what the agent asked for.
type Request struct {
	Verb string // add, keep, del or snapshot
	UID  string
	Pod  string // namespace/name (service account), with add
	// Netns is the pod's namespace, with add. It is closed after the answer.
	Netns *os.File
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

// Connect says hello and answers requests from then on. A nil answer always succeeds. It retries while nobody listens.
func Connect(t testing.TB, socket string, answer func(Request) Answer) *Proxy {
	t.Helper()
	if answer == nil {
		answer = func(Request) Answer { return Answer{} }
	}
	p := Dial(t, socket, answer)
	hello, err := proto.Marshal(&zds.ZdsHello{Version: zds.Version_V1})
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
		if answer.Disconnect {
			return
		}
		if answer.Silent {
			continue
		}
		packet := answer.Raw
		if packet == nil {
			ack := &zds.WorkloadResponse_Ack{Ack: &zds.Ack{Error: answer.Refuse}}
			if packet, err = proto.Marshal(&zds.WorkloadResponse{Payload: ack}); err != nil {
				p.t.Error(err)
				return
			}
		}
		if _, err := p.conn.Write(packet); err != nil {
			return
		}
	}
}

// read receives one request and reports what breaks the protocol.
func (p *Proxy) read() (Request, error) {
	packet, rights := make([]byte, maxPacket), make([]byte, syscall.CmsgSpace(4*4))
	n, control, flags, _, err := p.conn.ReadMsgUnix(packet, rights)
	if err != nil || n == 0 {
		return Request{}, fmt.Errorf("closed: %w", err)
	}
	if flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		p.t.Errorf("the agent sent an oversized packet")
	}
	files := received(rights[:control])
	var request zds.WorkloadRequest
	if err := proto.Unmarshal(packet[:n], &request); err != nil {
		p.t.Errorf("the agent sent garbage: %v", err)
		return Request{}, err
	}
	r := parse(&request)
	if want := r.Verb == "add"; want && len(files) != 1 || !want && len(files) != 0 {
		p.t.Errorf("%s came with %d descriptors", r, len(files))
	}
	if len(files) > 0 {
		r.Netns = files[0]
	}
	return r, nil
}

func parse(request *zds.WorkloadRequest) Request {
	switch payload := request.GetPayload().(type) {
	case *zds.WorkloadRequest_Add:
		info := payload.Add.GetWorkloadInfo()
		pod := fmt.Sprintf("%s/%s (%s)", info.GetNamespace(), info.GetName(), info.GetServiceAccount())
		return Request{Verb: "add", UID: payload.Add.GetUid(), Pod: pod}
	case *zds.WorkloadRequest_Keep:
		return Request{Verb: "keep", UID: payload.Keep.GetUid()}
	case *zds.WorkloadRequest_Del:
		return Request{Verb: "del", UID: payload.Del.GetUid()}
	case *zds.WorkloadRequest_SnapshotSent:
		return Request{Verb: "snapshot"}
	}
	return Request{Verb: "unknown"}
}

func received(rights []byte) []*os.File {
	var files []*os.File
	messages, _ := syscall.ParseSocketControlMessage(rights)
	for _, message := range messages {
		fds, _ := syscall.ParseUnixRights(&message)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "netns"))
		}
	}
	return files
}

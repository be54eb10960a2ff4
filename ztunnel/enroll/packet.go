package enroll

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const maxError = 512 // bytes of an acknowledgement's text, so that it always fits

// packet is one request of the agent with the descriptors that came along. Whoever takes the packet closes them or hands them
// on.
type packet struct {
	request *zds.WorkloadRequest
	netns   *os.File     // only of an add
	given   socket.Given // only of an add: listeners, not verified yet
}

// read receives one packet. io.EOF means that the agent hung up; any other error but a passed deadline means that the
// packet was bad, and no descriptor of it is left open.
func read(conn *net.UnixConn) (packet, error) {
	received, err := handover.Receive(conn)
	if err != nil {
		return packet{}, err
	}
	request, err := parse(received.Data, len(received.Files))
	if err != nil {
		received.Close()
		return packet{}, err
	}
	if len(received.Files) == 0 {
		return packet{request: request}, nil
	}
	netns := os.NewFile(uintptr(received.Files[0]), "received network namespace")
	given, err := handover.Unpack(request.GetAdd().GetListeners(), received.Files[1:])
	if err != nil {
		netns.Close()
		return packet{}, err
	}
	return packet{request: request, netns: netns, given: given}, nil
}

// parse decodes a request and checks that it came with as many descriptors as its kind needs.
func parse(data []byte, files int) (*zds.WorkloadRequest, error) {
	request := &zds.WorkloadRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return nil, fmt.Errorf("packet is no workload request: %w", err)
	}
	_, isAdd := request.GetPayload().(*zds.WorkloadRequest_Add)
	listeners := len(request.GetAdd().GetListeners())
	switch {
	case request.GetPayload() == nil:
		return nil, errors.New("request of an unknown kind")
	case isAdd && files != 1+listeners:
		return nil, fmt.Errorf("add of %d listeners must come with one descriptor more, not %d in all", listeners, files)
	case !isAdd && files != 0:
		return nil, errors.New("only an add may come with a descriptor")
	}
	return request, nil
}

// hello announces us, since when we run, and whether we answer pods' DNS questions.
func hello(conn *net.UnixConn, started time.Duration, dns bool) error {
	return write(conn, &zds.ZdsHello{Version: zds.Version_V1, HandOver: true, Stopping: true, Dns: &dns, Started: uint64(started)}, nil)
}

// ack answers the request at hand; no error means success. The descriptors of what goes along stay the caller's.
func ack(conn *net.UnixConn, failure error, along socket.Given) error {
	answer := &zds.Ack{}
	var files []int
	if failure != nil {
		answer.Error = shorten(failure.Error())
	} else {
		answer.Listeners, files = handover.Pack(along)
	}
	return write(conn, &zds.WorkloadResponse{Payload: &zds.WorkloadResponse_Ack{Ack: answer}}, files)
}

// shorten cuts a text between two characters, since a packet's strings must be valid.
func shorten(text string) string {
	end := 0
	for i, r := range text {
		if i > maxError {
			return text[:end] + "…"
		}
		end = i + len(string(r))
	}
	return text
}

func write(conn *net.UnixConn, message proto.Message, files []int) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	return handover.Send(conn, data, files...)
}

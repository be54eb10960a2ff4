package enroll

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
)

const (
	maxPacket = 1024 // of both directions, agreed by all who speak ZDS
	maxError  = 512  // of an acknowledgement's text, so that it always fits
	maxFiles  = 4    // descriptors that we make room for, to tell too many from too large
)

// packet is one request of the agent with the descriptor that came along, if any.
type packet struct {
	request *zds.WorkloadRequest
	netns   *os.File // only of an add; whoever takes the packet closes it or hands it on
}

// read receives one packet. io.EOF means that the agent hung up; any other error but a passed deadline means that the
// packet was bad, and no descriptor of it is left open.
func read(conn *net.UnixConn) (packet, error) {
	data, control := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, controlN, flags, _, err := conn.ReadMsgUnix(data, control)
	if errors.Is(err, io.EOF) && controlN > 0 {
		err = nil // an empty packet looks like the end, but the descriptors in it have to be closed
	}
	if err != nil {
		return packet{}, err
	}
	files, err := receivedFiles(control[:controlN])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("packet is larger than %d bytes or has too many descriptors", maxPacket)
	}
	var p packet
	if err == nil {
		p.request, err = parse(data[:n], len(files))
	}
	if err != nil {
		for _, file := range files {
			file.Close()
		}
		return packet{}, err
	}
	if len(files) == 1 {
		p.netns = files[0]
	}
	return p, nil
}

func receivedFiles(control []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var files []*os.File
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received network namespace"))
		}
	}
	return files, nil
}

// parse decodes a request and checks that it came with as many descriptors as its kind needs.
func parse(data []byte, files int) (*zds.WorkloadRequest, error) {
	request := &zds.WorkloadRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return nil, fmt.Errorf("packet is no workload request: %w", err)
	}
	_, isAdd := request.GetPayload().(*zds.WorkloadRequest_Add)
	switch {
	case request.GetPayload() == nil:
		return nil, errors.New("request of an unknown kind")
	case isAdd && files != 1:
		return nil, fmt.Errorf("add must come with one descriptor, not %d", files)
	case !isAdd && files != 0:
		return nil, errors.New("only an add may come with a descriptor")
	}
	return request, nil
}

// hello announces us.
func hello(conn *net.UnixConn) error {
	return write(conn, &zds.ZdsHello{Version: zds.Version_V1})
}

// ack answers the request at hand; no error means success.
func ack(conn *net.UnixConn, failure error) error {
	answer := &zds.Ack{}
	if failure != nil {
		answer.Error = shorten(failure.Error())
	}
	return write(conn, &zds.WorkloadResponse{Payload: &zds.WorkloadResponse_Ack{Ack: answer}})
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

func write(conn *net.UnixConn, message proto.Message) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	_, err = conn.Write(data)
	return err
}

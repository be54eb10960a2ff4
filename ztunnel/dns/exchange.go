package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	// udpPayload is how long a datagram we ask for: this one is never cut in pieces on the way (DNS flag day 2020).
	udpPayload = 1232
	// maxForeign bounds the datagrams, looked at for one question, that answer something else: each is a guess of somebody
	// who wants to be taken for the server.
	maxForeign = 16
)

var (
	errForeign = errors.New("not the answer to the question")
	errSpoofed = errors.New("too many answers to other questions; somebody may be forging them")
)

// exchanger asks servers, from inside a network namespace.
type exchanger struct {
	netns *socket.Netns
	mark  uint32
}

// exchange asks one server and returns what it says: by UDP, and again by TCP if the answer was too long for that. A
// server that doesn't know EDNS is asked once more without. ctx needs a deadline.
func (x exchanger) exchange(ctx context.Context, server netip.AddrPort, request *dns.Msg) (*dns.Msg, error) {
	reply, err := x.once(ctx, server, request)
	if err != nil || reply.Rcode != dns.RcodeFormatError || request.IsEdns0() == nil || reply.IsEdns0() != nil {
		return reply, err
	}
	plain := *request
	plain.Extra = nil
	return x.once(ctx, server, &plain)
}

func (x exchanger) once(ctx context.Context, server netip.AddrPort, request *dns.Msg) (*dns.Msg, error) {
	request.Id = dns.Id()
	wire, err := request.Pack()
	if err != nil {
		return nil, fmt.Errorf("write the question: %w", err)
	}
	reply, err := x.byUDP(ctx, server, request, wire)
	if err != nil || !reply.Truncated {
		return reply, err
	}
	if whole, err := x.byTCP(ctx, server, request, wire); err == nil {
		return whole, nil
	}
	return reply, nil // TC tells the client what is missing
}

func (x exchanger) byUDP(ctx context.Context, server netip.AddrPort, request *dns.Msg, wire []byte) (*dns.Msg, error) {
	conn, err := x.netns.DialUDP(server, x.mark)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer bound(ctx, conn)()
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	buffer := make([]byte, udpPayload)
	for range maxForeign {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		if reply, err := accept(request, buffer[:n]); err == nil {
			return reply, nil
		}
	}
	return nil, errSpoofed
}

func (x exchanger) byTCP(ctx context.Context, server netip.AddrPort, request *dns.Msg, wire []byte) (*dns.Msg, error) {
	conn, err := x.netns.Dial(ctx, server, socket.DialConfig{Mark: x.mark})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer bound(ctx, conn)()
	if err := writeStream(conn, wire); err != nil {
		return nil, err
	}
	data, err := readStream(conn, dns.MaxMsgSize)
	if err != nil {
		return nil, err
	}
	return accept(request, data)
}

// accept reads a server's answer, and refuses what doesn't belong to the question (RFC 5452, section 9.1).
func accept(request *dns.Msg, data []byte) (*dns.Msg, error) {
	reply := new(dns.Msg)
	if err := reply.Unpack(data); err != nil {
		return nil, err
	}
	if !reply.Response || reply.Id != request.Id || reply.Opcode != request.Opcode {
		return nil, errForeign
	}
	if len(reply.Question) == 0 && reply.Rcode != dns.RcodeSuccess && len(reply.Answer)+len(reply.Ns) == 0 {
		reply.Question = request.Question // some servers leave it out of failures
	}
	if len(reply.Question) != 1 {
		return nil, errForeign
	}
	asked, answered := request.Question[0], reply.Question[0]
	if asked.Qtype != answered.Qtype || asked.Qclass != answered.Qclass || !strings.EqualFold(asked.Name, answered.Name) {
		return nil, errForeign
	}
	for _, records := range [...][]dns.RR{reply.Answer, reply.Ns, reply.Extra} {
		if err := readable(records); err != nil {
			return nil, err
		}
	}
	return reply, nil
}

// readable refuses records without data whose type has some: they can be read as the beginning of an update (RFC 2136, section
// 2.4), and would be written as something that our client can't read.
func readable(records []dns.RR) error {
	var space [512]byte // of which the name takes half at most
	for _, record := range records {
		if record.Header().Rdlength > 0 {
			continue
		}
		n, err := dns.PackRR(record, space[:], 0, nil, false)
		if err == nil {
			_, _, err = dns.UnpackRR(space[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("record without data: %w", err)
		}
	}
	return nil
}

// bound ends all reads and writes with ctx. The function that it returns lets go.
func bound(ctx context.Context, conn net.Conn) func() bool {
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// writeStream writes a message as TCP carries it: with its length before (RFC 1035, section 4.2.2).
func writeStream(w io.Writer, message []byte) error {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message)))
	_, err := w.Write(append(framed, message...)) // in one packet if possible
	return err
}

func readStream(r io.Reader, most int) ([]byte, error) {
	var prefix [2]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(prefix[:]))
	if length > most {
		return nil, fmt.Errorf("message of %d bytes, which is more than %d", length, most)
	}
	message := make([]byte, length)
	_, err := io.ReadFull(r, message)
	return message, err
}

package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// RFC 1928.
const (
	version      = 5
	noAuth       = 0    // section 3
	noAcceptable = 0xFF // section 3
	connect      = 1    // section 4
	typeIPv4     = 1    // section 5
	typeDomain   = 3    // section 5
	typeIPv6     = 4    // section 5
)

// code is what a request is answered (section 6).
type code byte

const (
	succeeded          code = 0
	generalFailure     code = 1
	hostUnreachable    code = 4
	commandUnsupported code = 7
	addressUnsupported code = 8
)

// codeError is a refusal with its code.
type codeError struct {
	code code
	text string
}

func (e *codeError) Error() string { return e.text }

// destination is what a client asks for: an address, or a name.
type destination struct {
	addr netip.Addr
	host string // "" with addr
	port uint16
}

// readGreeting reads the client's methods and takes "no authentication" only. It reads not a byte more.
func readGreeting(r io.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if head[0] != version {
		return fmt.Errorf("greeting: version %d, want SOCKS 5", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	for _, method := range methods {
		if method == noAuth {
			return nil
		}
	}
	return errors.New("greeting: the client insists on authentication, of which there is none")
}

// readRequest reads what the client wants, and not a byte more: what follows is for the destination.
func readRequest(r io.Reader) (destination, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return destination{}, fmt.Errorf("request: %w", err)
	}
	if head[0] != version {
		return destination{}, &codeError{generalFailure, fmt.Sprintf("request: version %d, want SOCKS 5", head[0])}
	}
	to, err := readAddress(r, head[3])
	if err != nil {
		return destination{}, err
	}
	switch {
	case head[1] != connect: // told only now, since the client reads no answer before it has sent all
		return destination{}, &codeError{commandUnsupported, fmt.Sprintf("request: command %d, only CONNECT is served", head[1])}
	case to.port == 0:
		return destination{}, &codeError{generalFailure, "request: no port"}
	}
	return to, nil
}

// readAddress reads the address of the type, and the port.
func readAddress(r io.Reader, kind byte) (destination, error) {
	size := 0
	switch kind {
	case typeIPv4:
		size = 4
	case typeIPv6:
		size = 16
	case typeDomain:
		var length [1]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return destination{}, fmt.Errorf("request: %w", err)
		}
		size = int(length[0])
	default:
		return destination{}, &codeError{addressUnsupported, fmt.Sprintf("request: address type %d", kind)}
	}
	text := make([]byte, size+2)
	if _, err := io.ReadFull(r, text); err != nil {
		return destination{}, fmt.Errorf("request: %w", err)
	}
	to := destination{port: binary.BigEndian.Uint16(text[size:])}
	if kind != typeDomain {
		to.addr, _ = netip.AddrFromSlice(text[:size])
		to.addr = to.addr.Unmap()
		return to, nil
	}
	to.host = string(text[:size])
	if !isHost(to.host) {
		return destination{}, &codeError{addressUnsupported, fmt.Sprintf("request: %q is no host name", to.host)}
	}
	if addr, err := netip.ParseAddr(to.host); err == nil && addr.Zone() == "" { // clients write addresses there as well
		to.addr, to.host = addr.Unmap(), ""
	}
	return to, nil
}

// isHost keeps out what no name and no address has, before it gets into queries and logs.
func isHost(name string) bool {
	for _, b := range []byte(name) {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '-' && b != '_' && b != ':' {
			return false
		}
	}
	return name != ""
}

// reply is the answer to a request. The address that it has room for would be that of a connection which isn't made yet.
func (c code) reply() []byte { return []byte{version, byte(c), 0, typeIPv4, 0, 0, 0, 0, 0, 0} }

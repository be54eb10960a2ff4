package inbound

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
)

// PROXY protocol version 2, section 2.2: signature, command PROXY over a stream, addresses, then type-length-values.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21
	proxyTCP4      = 0x11
	proxyTCP6      = 0x21
	tlvIdentity    = 0xD0 // the client's SPIFFE id; Istio's waypoints read it
)

// proxyHeader tells the application who calls, and whom. The two addresses have to be of one family in a header: if they
// aren't, IPv4 is written as IPv6.
func proxyHeader(client, destination netip.AddrPort, peer identity.Workload) []byte {
	family, from, to := byte(proxyTCP4), client.Addr().AsSlice(), destination.Addr().AsSlice()
	if client.Addr().Is6() || destination.Addr().Is6() {
		from16, to16 := client.Addr().As16(), destination.Addr().As16()
		family, from, to = proxyTCP6, from16[:], to16[:]
	}
	var body []byte
	body = append(append(body, from...), to...)
	body = binary.BigEndian.AppendUint16(body, client.Port())
	body = binary.BigEndian.AppendUint16(body, destination.Port())
	if !peer.IsZero() {
		id := peer.String()
		body = append(body, tlvIdentity)
		body = binary.BigEndian.AppendUint16(body, uint16(len(id))) // identities are far shorter than 64 KiB
		body = append(body, id...)
	}
	header := append([]byte(proxySignature), proxyCommand, family)
	header = binary.BigEndian.AppendUint16(header, uint16(len(body)))
	return append(header, body...)
}

var errHeaderBlocked = errors.New("the application's connection takes no PROXY header")

// announce writes the header if the application wants one. A fresh connection's buffer takes it whole.
func (a *arrival) announce(app int) error {
	if !a.target.proxied.IsValid() {
		return nil
	}
	header := proxyHeader(a.client, a.target.proxied, a.peer)
	n, err := loop.Write(app, header)
	if err == nil && n < len(header) {
		err = errHeaderBlocked
	}
	return err
}

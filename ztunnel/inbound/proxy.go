package inbound

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

// PROXY protocol version 2, section 2.2: signature, command PROXY over a stream, addresses, then type-length-values.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21
	proxyTCP4      = 0x11
	proxyTCP6      = 0x21
	tlvIdentity    = 0xD0 // the client's SPIFFE id; Istio's waypoints read it
)

const headerTimeout = 5 * time.Second // an application that doesn't even buffer a header is dead

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

// announce writes the header if the application wants one. A fresh connection's buffer takes it without waiting.
func (a *arrival) announce(app *net.TCPConn) error {
	if !a.target.proxied.IsValid() {
		return nil
	}
	if err := app.SetWriteDeadline(time.Now().Add(headerTimeout)); err != nil {
		return err
	}
	if _, err := app.Write(proxyHeader(a.client, a.target.proxied, a.peer)); err != nil {
		return err
	}
	return app.SetWriteDeadline(time.Time{})
}

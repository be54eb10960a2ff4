// Package dump writes down what a ztunnel knows and does, in the JSON shape that istioctl reads.
package dump

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// Parts is what a page is made of.
type Parts struct {
	Version      string
	Config       any // shown as it is: nothing secret may be in it
	Table        *state.Table
	Certificates []certs.Status
	Pods         []Pod
}

// Pod is an enrolled pod with its connections, or one that is pending: it could not be served yet.
type Pod struct {
	UID, Name, Namespace, ServiceAccount string
	Pending                              bool
	Inbound, Outbound                    []capture.Info
}

type pod struct {
	State       string      `json:"state"`
	Connections connections `json:"connections"`
	Info        podInfo     `json:"info"`
}

type podInfo struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

type connections struct {
	Inbound  []connection `json:"inbound"`
	Outbound []connection `json:"outbound"`
}

type connection struct {
	Src         string  `json:"src"`
	OriginalDst *string `json:"originalDst"` // null if unknown
	ActualDst   string  `json:"actualDst"`
	Protocol    string  `json:"protocol"`
}

type identity struct {
	Identity  string        `json:"identity"`
	State     string        `json:"state"`
	CertChain []certificate `json:"certChain"`
	RootCerts []certificate `json:"rootCerts"`
}

type certificate struct {
	PEM            string `json:"pem"`          // base64 of the PEM text
	SerialNumber   string `json:"serialNumber"` // decimal
	ValidFrom      string `json:"validFrom"`    // RFC 3339
	ExpirationTime string `json:"expirationTime"`
}

func newPod(p Pod) pod {
	return pod{
		State:       choose(p.Pending, "Pending", "Up"),
		Info:        podInfo{p.Name, p.Namespace, p.ServiceAccount},
		Connections: connections{Inbound: newConnections(p.Inbound), Outbound: newConnections(p.Outbound)},
	}
}

func newConnections(list []capture.Info) []connection {
	out := []connection{}
	for _, info := range list {
		conn := connection{Src: info.Src, ActualDst: info.Actual, Protocol: info.Protocol}
		if info.Original != "" {
			conn.OriginalDst = &info.Original
		}
		out = append(out, conn)
	}
	return out
}

func newIdentity(status certs.Status) identity {
	d := identity{Identity: status.Identity.String(), State: status.State, CertChain: []certificate{}, RootCerts: []certificate{}}
	if status.Credential == nil {
		return d
	}
	for _, text := range status.Credential.ChainPEM {
		d.CertChain = append(d.CertChain, newCertificates(text)...)
	}
	d.RootCerts = append(d.RootCerts, newCertificates(status.Credential.RootsPEM)...)
	return d
}

func newCertificates(text string) []certificate {
	var list []certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		serial := cert.SerialNumber
		if serial == nil {
			serial = new(big.Int)
		}
		list = append(list, certificate{
			PEM:            base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block)),
			SerialNumber:   serial.String(),
			ValidFrom:      cert.NotBefore.UTC().Format(time.RFC3339),
			ExpirationTime: cert.NotAfter.UTC().Format(time.RFC3339),
		})
	}
	return list
}

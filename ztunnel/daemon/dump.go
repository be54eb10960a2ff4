package daemon

import (
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"time"

	"crypto/x509"

	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// dump is what /config_dump shows, in the shape that istioctl reads.
type dump struct {
	Workloads     []workloadDump      `json:"workloads"`
	Services      []serviceDump       `json:"services"`
	Policies      []policyDump        `json:"policies"`
	Certificates  []identityDump      `json:"certificates"`
	WorkloadState map[string]podDump  `json:"workloadState"`
	Version       map[string]string   `json:"version"`
	Config        any                 `json:"config"`
	StaticConfig  map[string]struct{} `json:"staticConfig"`
}

type podDump struct {
	State       string         `json:"state"`
	Connections connectionDump `json:"connections"`
	Info        podInfoDump    `json:"info"`
}

type podInfoDump struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

type connectionDump struct {
	Inbound  []connDump `json:"inbound"`
	Outbound []connDump `json:"outbound"`
}

type connDump struct {
	Src         string  `json:"src"`
	OriginalDst *string `json:"originalDst"` // null if unknown
	ActualDst   string  `json:"actualDst"`
	Protocol    string  `json:"protocol"`
}

type identityDump struct {
	Identity  string     `json:"identity"`
	State     string     `json:"state"`
	CertChain []certDump `json:"certChain"`
	RootCerts []certDump `json:"rootCerts"`
}

type certDump struct {
	PEM            string `json:"pem"`          // base64 of the PEM text
	SerialNumber   string `json:"serialNumber"` // decimal
	ValidFrom      string `json:"validFrom"`    // RFC 3339
	ExpirationTime string `json:"expirationTime"`
}

// dump collects everything at one moment, as far as one moment exists across parts.
func (z *ztunnel) dump() dump {
	t := z.store.Load()
	d := dump{
		Workloads: []workloadDump{}, Services: []serviceDump{}, Policies: []policyDump{}, Certificates: []identityDump{},
		WorkloadState: map[string]podDump{}, Version: map[string]string{"version": z.version},
		Config: redacted(z.cfg), StaticConfig: map[string]struct{}{},
	}
	for _, w := range t.Workloads() {
		d.Workloads = append(d.Workloads, dumpWorkload(w))
	}
	for _, svc := range t.Services() {
		d.Services = append(d.Services, dumpService(t, svc))
	}
	for _, p := range t.Policies() {
		d.Policies = append(d.Policies, dumpPolicy(p))
	}
	for _, status := range z.certs.Dump() {
		d.Certificates = append(d.Certificates, dumpIdentity(status))
	}
	for _, pod := range z.pods.list() {
		if pod.own {
			continue // nobody enrolled it
		}
		d.WorkloadState[pod.info.UID] = podDump{
			State: "Up",
			Info:  podInfoDump{pod.info.Name, pod.info.Namespace, pod.info.ServiceAccount},
			Connections: connectionDump{
				Inbound:  dumpConns(pod.registry.List(capture.Inbound)),
				Outbound: dumpConns(pod.registry.List(capture.Outbound)),
			},
		}
	}
	return d
}

func dumpConns(list []capture.Info) []connDump {
	out := []connDump{}
	for _, info := range list {
		conn := connDump{Src: info.Src, ActualDst: info.Actual, Protocol: info.Protocol}
		if info.Original != "" {
			conn.OriginalDst = &info.Original
		}
		out = append(out, conn)
	}
	return out
}

func dumpIdentity(status certs.Status) identityDump {
	d := identityDump{Identity: status.Identity.String(), State: status.State, CertChain: []certDump{}, RootCerts: []certDump{}}
	if status.Credential == nil {
		return d
	}
	for _, text := range status.Credential.ChainPEM {
		d.CertChain = append(d.CertChain, dumpCerts(text)...)
	}
	d.RootCerts = append(d.RootCerts, dumpCerts(status.Credential.RootsPEM)...)
	return d
}

func dumpCerts(text string) []certDump {
	var list []certDump
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		serial := cert.SerialNumber
		if serial == nil {
			serial = new(big.Int)
		}
		list = append(list, certDump{
			PEM:            base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block)),
			SerialNumber:   serial.String(),
			ValidFrom:      cert.NotBefore.UTC().Format(time.RFC3339),
			ExpirationTime: cert.NotAfter.UTC().Format(time.RFC3339),
		})
	}
	return list
}

package controlplane_test

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/controlplane"
)

func TestPostQuantumPolicyHoldsForTheControlPlane(t *testing.T) {
	root := newServer(t).RootFile()
	for name, test := range map[string]struct {
		policy bool
		want   func(offered []tls.CurveID) bool
	}{
		"by default":  {false, func(offered []tls.CurveID) bool { return slices.Contains(offered, tls.X25519) }},
		"with policy": {true, func(offered []tls.CurveID) bool { return slices.Equal(offered, []tls.CurveID{tls.X25519MLKEM768}) }},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			offers := make(chan []tls.CurveID, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_ = tls.Server(conn, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					offers <- hello.SupportedCurves
					return nil, errors.New("seen enough")
				}}).Handshake()
			}()
			conn := dial(t, controlplane.Config{Address: l.Addr().String(), RootCA: root, PostQuantum: test.policy})
			_ = call(conn)
			if offered := <-offers; !test.want(offered) {
				t.Errorf("the client offers %v", offered)
			}
		})
	}
}

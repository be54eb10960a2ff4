// Package delta is a scripted proxy: the client's side of delta xDS and of certificate signing, for tests and benchmarks of a
// control plane. It reads responses without copying them, so that a hundred clients fit on a machine beside what they measure.
package delta

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/mesh/controlplane"
)

// The types of resources.
const (
	Address       = "type.googleapis.com/istio.workload.Address"
	Authorization = "type.googleapis.com/istio.security.Authorization"
	L7            = "type.googleapis.com/tulle.l7.v1.Resource"
)

// Identity is who a client says and proves that it is.
type Identity struct {
	Kind                    string // of proxy: ztunnel or waypoint; empty means ztunnel
	Pod, Namespace, Account string
	Node                    string // that the pod runs on
	Token                   string // empty for none
	Cluster                 string // empty means Kubernetes
}

// Dial connects to a control plane, lazily.
func Dial(addr, serverName string, roots *x509.CertPool, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(200 << 20)),
		// As a ztunnel's: see package mesh/controlplane.
		grpc.WithStaticStreamWindowSize(controlplane.Window), grpc.WithStaticConnWindowSize(controlplane.Window),
	}, options...)
	return grpc.NewClient("passthrough:///"+addr, options...)
}

// As puts the identity's token on calls.
func (i Identity) As(ctx context.Context) context.Context {
	pairs := []string{"clusterid", i.cluster()}
	if i.Token != "" {
		pairs = append(pairs, "authorization", "Bearer "+i.Token)
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

func (i Identity) cluster() string {
	if i.Cluster == "" {
		return "Kubernetes"
	}
	return i.Cluster
}

func (i Identity) node() *corev3.Node {
	kind := i.Kind
	if kind == "" {
		kind = "ztunnel"
	}
	fields := map[string]*structpb.Value{}
	for name, value := range map[string]string{
		"NAME": i.Pod, "NAMESPACE": i.Namespace, "NODE_NAME": i.Node, "SERVICE_ACCOUNT": i.Account, "CLUSTER_ID": i.cluster(),
	} {
		fields[name] = structpb.NewStringValue(value)
	}
	return &corev3.Node{
		Id:       fmt.Sprintf("%s~127.0.0.1~%s.%s~%s.svc.cluster.local", kind, i.Pod, i.Namespace, i.Namespace),
		Metadata: &structpb.Struct{Fields: fields},
	}
}

// Stream is one delta stream. Its methods are for one goroutine at a time, but for sending beside receiving.
type Stream struct {
	stream   grpc.ClientStream
	identity Identity
	greeted  bool
}

// Context ends with the stream.
func (s *Stream) Context() context.Context { return s.stream.Context() }

// method is delta xDS's only one.
const method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// Open begins a stream, which ends with the context.
func Open(ctx context.Context, conn *grpc.ClientConn, identity Identity) (*Stream, error) {
	description := &grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(identity.As(ctx), description, method, grpc.ForceCodecV2(codec{}))
	if err != nil {
		return nil, err
	}
	return &Stream{stream: stream, identity: identity}, nil
}

// Subscribe asks for everything of a type but what the client has.
func (s *Stream) Subscribe(typeURL string, have Versions) error {
	return s.send(request{&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}, have})
}

// Send sends any request; the first says who the client is.
func (s *Stream) Send(r *discoveryv3.DeltaDiscoveryRequest) error { return s.send(request{r, nil}) }

func (s *Stream) send(r request) error {
	if !s.greeted {
		r.Node, s.greeted = s.identity.node(), true
	}
	return s.stream.SendMsg(r)
}

// Receive returns the next response, which the caller frees.
func (s *Stream) Receive() (*Response, error) {
	response := &Response{}
	if err := s.stream.RecvMsg(response); err != nil {
		return nil, err
	}
	return response, nil
}

// Accept acknowledges a response.
func (s *Stream) Accept(r *Response) error {
	return s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeURL, ResponseNonce: r.Nonce})
}

// Reject refuses a response.
func (s *Stream) Reject(r *Response, reason string) error {
	return s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeURL, ResponseNonce: r.Nonce, ErrorDetail: &statuspb.Status{Code: 3, Message: reason}})
}

// Run subscribes to types, and receives and accepts until the stream ends. Handle may not keep what it is given.
func (s *Stream) Run(have map[string]Versions, types []string, handle func(*Response)) error {
	for _, typeURL := range types {
		if err := s.Subscribe(typeURL, have[typeURL]); err != nil {
			return s.ended(err)
		}
	}
	for {
		response, err := s.Receive()
		if err != nil {
			return s.ended(err)
		}
		handle(response)
		err = s.Accept(response)
		response.Free()
		if err != nil {
			return s.ended(err)
		}
	}
}

// ended is why the stream ended: what sending says of that is only "EOF".
func (s *Stream) ended(err error) error {
	response := &Response{}
	for range 1000 {
		if received := s.stream.RecvMsg(response); received != nil {
			return received
		}
		response.Free()
	}
	return errors.Join(err, errors.New("the stream doesn't end"))
}

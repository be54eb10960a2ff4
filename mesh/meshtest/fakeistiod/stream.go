package fakeistiod

import (
	"maps"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// discovery is the xDS service.
type discovery struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
}

// stream is the server's side of one client.
type stream struct {
	opened Stream

	// Guarded by Server.mu.
	version    int // of the resources when the last pushes were made
	unanswered int // pushes

	// Owned by DeltaAggregatedResources.
	known map[string]map[string]string // by type and name, the versions that the client has
	nonce int
}

// DeltaAggregatedResources pushes whatever the client does not have.
func (d discovery) DeltaAggregatedResources(grpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s, st := d.server, &stream{known: map[string]map[string]string{}}
	st.opened.Header, _ = metadata.FromIncomingContext(grpc.Context())
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() { // ends with the stream
		defer close(requests)
		for {
			request, err := grpc.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- request:
			case <-grpc.Context().Done():
				return
			}
		}
	}()
	defer s.close(st)
	first := "" // the type that was just subscribed to
	for {
		pushes, changed := s.pushes(st, first)
		for _, push := range pushes {
			if err := grpc.Send(push); err != nil {
				return err
			}
		}
		first = ""
		select {
		case request, open := <-requests:
			if !open {
				return nil
			}
			if first = s.note(st, request); st.opened.Node.GetId() == "" {
				return status.Error(codes.InvalidArgument, "the first request has no node id")
			}
		case <-changed:
		}
	}
}

// note takes a request and returns its type if it is the first of that type, which has to be answered.
func (s *Server) note(st *stream, request *discoveryv3.DeltaDiscoveryRequest) (first string) {
	typeURL := request.GetTypeUrl()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.notifyLocked()
	switch {
	case st.known[typeURL] == nil:
		if st.opened.Node == nil {
			st.opened.Node, st.opened.Versions = request.GetNode(), map[string]map[string]string{}
			s.streams[st], s.opened = true, append(s.opened, &st.opened)
		}
		st.known[typeURL] = map[string]string{}
		maps.Copy(st.known[typeURL], request.GetInitialResourceVersions())
		st.opened.Types = append(st.opened.Types, typeURL)
		st.opened.Versions[typeURL] = request.GetInitialResourceVersions()
		return typeURL
	case request.GetErrorDetail() != nil:
		s.nacks[typeURL] = append(s.nacks[typeURL], request.GetErrorDetail().GetMessage())
	default:
		s.acks[typeURL]++
	}
	st.unanswered--
	return ""
}

// pushes returns what the client lacks, and a channel that is closed when that may change. The type always gets a push.
func (s *Server) pushes(st *stream, always string) (list []*discoveryv3.DeltaDiscoveryResponse, changed chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, typeURL := range slices.Sorted(maps.Keys(st.known)) { // authorizations before addresses
		push := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL}
		now, known := s.resources[typeURL], st.known[typeURL]
		for _, name := range slices.Sorted(maps.Keys(now)) {
			if version, ok := known[name]; !ok || version != now[name].GetVersion() {
				push.Resources = append(push.Resources, now[name])
				known[name] = now[name].GetVersion()
			}
		}
		for _, name := range slices.Sorted(maps.Keys(known)) {
			if now[name] == nil {
				push.RemovedResources = append(push.RemovedResources, name)
				delete(known, name)
			}
		}
		if len(push.GetResources())+len(push.GetRemovedResources()) > 0 || typeURL == always {
			st.nonce++
			push.Nonce = strconv.Itoa(st.nonce)
			st.unanswered++
			list = append(list, push)
		}
	}
	st.version = s.version
	return list, s.changed
}

// close forgets the stream.
func (s *Server) close(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	s.notifyLocked()
}

package fakeistiod

import (
	"maps"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// discovery is the xDS service.
type discovery struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
}

// stream is the server's side of one client. Server.mu guards it, sending included.
type stream struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	said       Stream
	known      map[string]map[string]string // by type and name, the versions that the client has
	pushed     int
	unanswered int
}

// DeltaAggregatedResources reads what a client says. Pushes are sent by whoever changes something.
func (d discovery) DeltaAggregatedResources(grpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s, st := d.server, &stream{AggregatedDiscoveryService_DeltaAggregatedResourcesServer: grpc, known: map[string]map[string]string{}}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, st)
		s.notifyLocked()
	}()
	for {
		request, err := st.Recv()
		if err != nil {
			return nil // the client is gone
		}
		if err := s.note(st, request); err != nil {
			return err
		}
	}
}

// note takes an answer, or a subscription, which gets its first push even if there is nothing to push.
func (s *Server) note(st *stream, request *discoveryv3.DeltaDiscoveryRequest) error {
	typeURL := request.GetTypeUrl()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.notifyLocked()
	switch {
	case st.known[typeURL] == nil:
		if st.said.Node == nil {
			st.said.Node, st.said.Versions = request.GetNode(), map[string]map[string]string{}
			s.streams[st], s.opened = true, append(s.opened, &st.said)
		}
		if st.said.Node.GetId() == "" {
			return status.Error(codes.InvalidArgument, "the first request has no node id")
		}
		st.known[typeURL] = map[string]string{}
		maps.Copy(st.known[typeURL], request.GetInitialResourceVersions())
		st.said.Types = append(st.said.Types, typeURL)
		st.said.Versions[typeURL] = request.GetInitialResourceVersions()
		return s.pushLocked(st, typeURL, true)
	case request.GetErrorDetail() != nil:
		s.nacks[typeURL] = append(s.nacks[typeURL], request.GetErrorDetail().GetMessage())
	default:
		s.acks[typeURL]++
	}
	st.unanswered--
	return nil
}

// pushLocked sends what the client lacks of a type.
func (s *Server) pushLocked(st *stream, typeURL string, always bool) error {
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
	if len(push.GetResources())+len(push.GetRemovedResources()) == 0 && !always {
		return nil
	}
	st.pushed++
	st.unanswered++
	push.Nonce = strconv.Itoa(st.pushed)
	return st.Send(push)
}

// pushAllLocked sends every client what it lacks, authorizations before addresses. A client that is just leaving gets
// nothing, which is no error.
func (s *Server) pushAllLocked() {
	for st := range s.streams {
		for _, typeURL := range slices.Sorted(maps.Keys(st.known)) {
			_ = s.pushLocked(st, typeURL, false)
		}
	}
	s.notifyLocked()
}

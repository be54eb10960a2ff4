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
	wants      map[string]*interest         // by type
	pushed     int
	unanswered int
}

// DeltaAggregatedResources reads what a client says. Pushes are sent by whoever changes something.
func (d discovery) DeltaAggregatedResources(grpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s, st := d.server, &stream{AggregatedDiscoveryService_DeltaAggregatedResourcesServer: grpc, known: map[string]map[string]string{}, wants: map[string]*interest{}}
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
		st.said.Names = append(st.said.Names, request.GetResourceNamesSubscribe()...)
		st.wants[typeURL] = new(interest)
		if asked := st.wants[typeURL].change(true, request); !st.wants[typeURL].all {
			return st.send(s.answerLocked(st, typeURL, asked))
		}
		return s.pushFirstLocked(st, typeURL)
	case request.GetResponseNonce() == "":
		asked := st.wants[typeURL].change(false, request)
		if len(asked) == 0 {
			return nil
		}
		st.said.Names = append(st.said.Names, asked...)
		return st.send(s.answerLocked(st, typeURL, asked))
	case request.GetErrorDetail() != nil:
		s.nacks[typeURL] = append(s.nacks[typeURL], request.GetErrorDetail().GetMessage())
	default:
		s.acks[typeURL]++
	}
	st.unanswered--
	return nil
}

// pushFirstLocked answers a subscription: everything that the client doesn't have, even if that is nothing.
func (s *Server) pushFirstLocked(st *stream, typeURL string) error {
	names := maps.Clone(st.known[typeURL])
	for name := range s.resources[typeURL] {
		names[name] = ""
	}
	return st.send(s.owedLocked(st, typeURL, slices.Collect(maps.Keys(names))))
}

// owedLocked is what the client lacks of those names, and notes that it has it.
func (s *Server) owedLocked(st *stream, typeURL string, names []string) *discoveryv3.DeltaDiscoveryResponse {
	push := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL}
	known := st.known[typeURL]
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		version, has := known[name]
		switch resource := s.resources[typeURL][name]; {
		case resource == nil && has:
			push.RemovedResources = append(push.RemovedResources, name)
			delete(known, name)
		case resource != nil && (!has || version != resource.GetVersion()) && s.wantedLocked(st, typeURL, name):
			push.Resources = append(push.Resources, resource)
			known[name] = resource.GetVersion()
		}
	}
	return push
}

func (st *stream) send(push *discoveryv3.DeltaDiscoveryResponse) error {
	st.pushed++
	st.unanswered++
	push.Nonce = strconv.Itoa(st.pushed)
	return st.Send(push)
}

// pushAllLocked sends every client what it lacks of the names by type, authorizations before addresses. A client that is
// just leaving gets nothing, which is no error.
func (s *Server) pushAllLocked(touched map[string][]string) {
	for st := range s.streams {
		for _, typeURL := range slices.Sorted(maps.Keys(st.known)) {
			if push := s.owedLocked(st, typeURL, slices.Clone(touched[typeURL])); len(push.GetResources())+len(push.GetRemovedResources()) > 0 {
				_ = st.send(push)
			}
		}
	}
	s.notifyLocked()
}

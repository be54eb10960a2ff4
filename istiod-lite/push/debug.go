package push

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// shown is what the debug page says of a stream.
type shown struct {
	proxy, node string
	connected   time.Time
	version     string

	lock  sync.Mutex
	types map[string]typeStatus
}

// typeStatus is how far a proxy is with a type.
type typeStatus struct {
	Sent  string     `json:"sent"`  // version of the log
	Acked string     `json:"acked"` // the same
	When  time.Time  `json:"when"`  // of the last of both
	Nack  *rejection `json:"nack,omitempty"`
}

// rejection is why a proxy rejected the last response that it answered.
type rejection struct {
	Reason string `json:"reason"`
	// Resources are a few of those in the response; the reason says which of them are wrong.
	Resources []string `json:"resources"`
}

func (s *shown) sent(typeURL, version string, now time.Time) {
	s.lock.Lock()
	defer s.lock.Unlock()
	one := s.types[short(typeURL)]
	one.Sent, one.When = version, now
	s.types[short(typeURL)] = one
}

func (s *shown) acknowledged(what receipt, failure *rpcstatus.Status, now time.Time) {
	s.lock.Lock()
	defer s.lock.Unlock()
	one := s.types[short(what.typeURL)]
	one.Acked, one.Nack, one.When = what.version, nil, now
	if failure != nil {
		one.Nack = &rejection{failure.GetMessage(), what.names}
	}
	s.types[short(what.typeURL)] = one
}

// MarshalJSON writes the status as it is now.
func (s *shown) MarshalJSON() ([]byte, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return json.Marshal(struct {
		Proxy     string                `json:"proxy"`
		Node      string                `json:"node"`
		Connected time.Time             `json:"connected"`
		Types     map[string]typeStatus `json:"types"`
	}{s.proxy, s.node, s.connected, s.types})
}

func (s *Server) show(node *corev3.Node, caller Caller) *shown {
	version := node.GetMetadata().GetFields()["ISTIO_VERSION"].GetStringValue()
	if version == "" {
		version = "unknown"
	}
	show := &shown{proxy: node.Id, node: caller.Node, connected: time.Now(), version: version, types: make(map[string]typeStatus)}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.streams[show] = struct{}{}
	s.metrics.clients.WithLabelValues(version).Inc()
	return show
}

func (s *Server) hide(show *shown) {
	s.lock.Lock()
	defer s.lock.Unlock()
	delete(s.streams, show)
	s.metrics.clients.WithLabelValues(show.version).Dec()
}

// Status lists the connected proxies, by name, and what each was sent and has acknowledged. It is for JSON.
func (s *Server) Status() []json.Marshaler {
	s.lock.Lock()
	streams := slices.Collect(maps.Keys(s.streams))
	s.lock.Unlock()
	slices.SortFunc(streams, func(a, b *shown) int { return cmp.Or(cmp.Compare(a.proxy, b.proxy), a.connected.Compare(b.connected)) })
	list := make([]json.Marshaler, len(streams))
	for i, stream := range streams {
		list[i] = stream
	}
	return list
}

package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// maxReason bounds the text of a refusal, in bytes.
const maxReason = 16 << 10

// take hands a push on and returns the answer to it.
func (c *Client) take(m *message) *discoveryv3.DeltaDiscoveryRequest {
	defer m.close()
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.typeURL, ResponseNonce: m.nonce}
	c.event(Event{Kind: Pushed, TypeURL: m.typeURL, Bytes: m.size})
	held, subscribed := c.versions[m.typeURL]
	if !subscribed {
		answer.ErrorDetail = refusal(fmt.Sprintf("type %q was not subscribed to", m.typeURL))
		return answer
	}
	if w := c.wishes[m.typeURL]; w != nil {
		w.mu.Lock()
		w.forget(held)
		w.mu.Unlock()
	}
	for _, name := range m.removed {
		delete(held, name)
	}
	refused := c.handle(m, held)
	for name := range refused {
		if name != "" {
			held[name] = ""
		}
	}
	if len(refused) > 0 {
		text := reason(refused, m.resources)
		answer.ErrorDetail = refusal(text)
		c.config.Log.Warn("xds push refused in part", "type", m.typeURL, "err", text)
	}
	c.answered(m.typeURL)
	return answer
}

// handle lets the owner take a push. It notes the versions of the resources as they go by, and returns those that the
// owner refuses or that aren't what the push says it holds.
func (c *Client) handle(m *message, held map[string]string) map[string]error {
	refused := map[string]error{}
	push := Push{TypeURL: m.typeURL, Size: m.size, Removed: m.removed, Resources: func(yield func(Resource) bool) {
		for resource, err := range m.each {
			if err != nil {
				refused[resource.Name] = err
				continue
			}
			held[resource.Name] = resource.Version
			if !yield(resource) {
				return
			}
		}
	}}
	for name, err := range c.config.Handle(push) {
		refused[name] = err
	}
	return refused
}

func (c *Client) answered(typeURL string) {
	if !c.unanswered[typeURL] {
		return
	}
	delete(c.unanswered, typeURL)
	if len(c.unanswered) == 0 {
		close(c.ready)
	}
}

func refusal(text string) *status.Status {
	return &status.Status{Code: int32(codes.InvalidArgument), Message: text}
}

// reason lists the refused resources in the order of their names.
func reason(refused map[string]error, of int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "refused %d of %d resources", len(refused), of)
	separator := ": "
	names := slices.Sorted(maps.Keys(refused))
	for i, name := range names {
		line := fmt.Sprintf("%s%s: %s", separator, name, refused[name])
		if text.Len()+len(line) > maxReason {
			fmt.Fprintf(&text, "%sand %d more", separator, len(names)-i)
			break
		}
		text.WriteString(strings.ToValidUTF8(line, "?"))
		separator = "; "
	}
	return text.String()
}

package xds

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// maxReason bounds the text of a refusal, in bytes.
const maxReason = 16 << 10

// take hands a push on and returns the answer to it.
func (c *Client) take(response *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
	typeURL := response.GetTypeUrl()
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: response.GetNonce()}
	c.event(Event{Kind: Pushed, TypeURL: typeURL, Bytes: proto.Size(response)})
	held, subscribed := c.versions[typeURL]
	if !subscribed {
		answer.ErrorDetail = refusal(fmt.Sprintf("type %q was not subscribed to", typeURL))
		return answer
	}
	push, refused := read(response)
	for name, err := range c.config.Handle(push) {
		refused[name] = err
	}
	for _, name := range push.Removed {
		delete(held, name)
	}
	for _, resource := range push.Resources {
		held[resource.Name] = resource.Version
	}
	for name := range refused {
		if name != "" {
			held[name] = ""
		}
	}
	if len(refused) > 0 {
		text := reason(refused, len(response.GetResources()))
		answer.ErrorDetail = refusal(text)
		c.config.Log.Warn("xds push refused in part", "type", typeURL, "err", text)
	}
	c.answered(typeURL)
	return answer
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

// read returns the push and the resources which aren't what the push says it holds.
func read(response *discoveryv3.DeltaDiscoveryResponse) (Push, map[string]error) {
	push := Push{TypeURL: response.GetTypeUrl(), Removed: response.GetRemovedResources()}
	refused := map[string]error{}
	for _, r := range response.GetResources() {
		switch body := r.GetResource(); {
		case body == nil:
			refused[r.GetName()] = errors.New("the resource has no body")
		case body.GetTypeUrl() != push.TypeURL:
			refused[r.GetName()] = fmt.Errorf("the resource is of type %q in a push of %q", body.GetTypeUrl(), push.TypeURL)
		default:
			push.Resources = append(push.Resources, Resource{Name: r.GetName(), Version: r.GetVersion(), Body: body.GetValue()})
		}
	}
	return push, refused
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

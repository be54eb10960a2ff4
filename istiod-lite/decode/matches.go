package decode

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func httpMatch(path string, o *gatewayv1.HTTPRouteMatch) (model.RouteMatch, error) {
	m := model.RouteMatch{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/"}, Method: string(or(o.Method, ""))}
	var err error
	if o.Path != nil {
		if m.Path, err = pathMatch(path+".path", o.Path); err != nil {
			return m, err
		}
	}
	for i, h := range o.Headers {
		at := fmt.Sprintf("%s.headers[%d]", path, i)
		if m.Headers, err = addKey(at, m.Headers, strings.ToLower(string(h.Name)), string(or(h.Type, "Exact")), h.Value); err != nil {
			return m, err
		}
	}
	for i, q := range o.QueryParams {
		at := fmt.Sprintf("%s.queryParams[%d]", path, i)
		if m.Params, err = addKey(at, m.Params, string(q.Name), string(or(q.Type, "Exact")), q.Value); err != nil {
			return m, err
		}
	}
	return m, nil
}

func pathMatch(path string, o *gatewayv1.HTTPPathMatch) (model.PathMatch, error) {
	m := model.PathMatch{Value: or(o.Value, "/")}
	switch kind := or(o.Type, gatewayv1.PathMatchPathPrefix); kind {
	case gatewayv1.PathMatchExact:
	case gatewayv1.PathMatchPathPrefix:
		m.Type = model.MatchPrefix
		m.Value = "/" + strings.Trim(m.Value, "/")
		if strings.HasPrefix(or(o.Value, "/"), "//") {
			return m, at(path+".value", errors.New("two slashes in a row match nothing"))
		}
	case gatewayv1.PathMatchRegularExpression:
		m.Type = model.MatchRegex
		return m, regex(path+".value", m.Value)
	default:
		return m, at(path+".type", fmt.Errorf("%q is not known: use Exact, PathPrefix or RegularExpression", kind))
	}
	if !strings.HasPrefix(or(o.Value, "/"), "/") {
		return m, at(path+".value", fmt.Errorf("want a path that begins with a slash, have %q", *o.Value))
	}
	return m, nil
}

// maxRegex bounds regular expressions, in bytes, as the Gateway API does.
const maxRegex = 4096

func regex(path, text string) error {
	if len(text) > maxRegex {
		return at(path, fmt.Errorf("a regular expression of %d bytes: want at most %d", len(text), maxRegex))
	}
	if _, err := regexp.Compile(text); err != nil {
		return at(path, fmt.Errorf("want RE2: %w", err))
	}
	return nil
}

// addKey adds a match of a header or parameter. Of several with one name the first counts, as the Gateway API has it.
func addKey(path string, list []model.KeyMatch, name, kind, value string) ([]model.KeyMatch, error) {
	if name == "" {
		return nil, at(path+".name", errors.New("missing"))
	}
	for _, other := range list {
		if other.Name == name {
			return list, nil
		}
	}
	m := model.KeyMatch{Name: name, Value: value}
	switch kind {
	case "Exact":
	case "RegularExpression":
		m.Type = model.MatchRegex
		if err := regex(path+".value", value); err != nil {
			return nil, err
		}
	default:
		return nil, at(path+".type", fmt.Errorf("%q is not known: use Exact or RegularExpression", kind))
	}
	return append(list, m), nil
}

func grpcMatch(path string, o *gatewayv1.GRPCRouteMatch) (model.RouteMatch, error) {
	m := model.RouteMatch{GRPC: &model.GRPCMatch{}}
	if o.Method != nil {
		m.GRPC.Service, m.GRPC.Method = or(o.Method.Service, ""), or(o.Method.Method, "")
		switch kind := or(o.Method.Type, gatewayv1.GRPCMethodMatchExact); kind {
		case gatewayv1.GRPCMethodMatchExact:
			if strings.Contains(m.GRPC.Service+m.GRPC.Method, "/") {
				return m, at(path+".method", errors.New("a slash in the name of a service or method"))
			}
		case gatewayv1.GRPCMethodMatchRegularExpression:
			m.GRPC.Type = model.MatchRegex
			if err := errors.Join(regex(path+".method.service", m.GRPC.Service), regex(path+".method.method", m.GRPC.Method)); err != nil {
				return m, err
			}
		default:
			return m, at(path+".method.type", fmt.Errorf("%q is not known: use Exact or RegularExpression", kind))
		}
	}
	var err error
	for i, h := range o.Headers {
		at := fmt.Sprintf("%s.headers[%d]", path, i)
		if m.Headers, err = addKey(at, m.Headers, strings.ToLower(string(h.Name)), string(or(h.Type, "Exact")), h.Value); err != nil {
			return m, err
		}
	}
	return m, nil
}

// defaultAttempts is how often a request is tried again where the route doesn't say.
const defaultAttempts = 2

// timing reads timeouts and retries.
func timing(path string, o *gatewayv1.HTTPRouteRule, rule *model.RouteRule) error {
	var err error
	if o.Timeouts != nil {
		if rule.RequestTimeout, err = duration(path+".timeouts.request", o.Timeouts.Request); err != nil {
			return err
		}
		if rule.TryTimeout, err = duration(path+".timeouts.backendRequest", o.Timeouts.BackendRequest); err != nil {
			return err
		}
		if rule.RequestTimeout > 0 && rule.TryTimeout > rule.RequestTimeout {
			return at(path+".timeouts.backendRequest", fmt.Errorf("%s is more than the request's %s", rule.TryTimeout, rule.RequestTimeout))
		}
	}
	if o.Retry == nil {
		return nil
	}
	attempts := or(o.Retry.Attempts, defaultAttempts)
	if attempts < 0 || attempts > 1000 {
		return at(path+".retry.attempts", fmt.Errorf("%d is not within 0 to 1000", attempts))
	}
	rule.Retry = &model.Retry{Attempts: uint32(attempts)}
	for i, code := range o.Retry.Codes {
		if code < 400 || code > 599 {
			return at(fmt.Sprintf("%s.retry.codes[%d]", path, i), fmt.Errorf("status %d is not within 400 to 599", code))
		}
		rule.Retry.Statuses = append(rule.Retry.Statuses, uint32(code))
	}
	rule.Retry.Backoff, err = duration(path+".retry.backoff", o.Retry.Backoff)
	return err
}

var gatewayDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

func duration(path string, text *gatewayv1.Duration) (time.Duration, error) {
	if text == nil {
		return 0, nil
	}
	d, err := time.ParseDuration(string(*text))
	if err != nil || !gatewayDuration.MatchString(string(*text)) {
		return 0, at(path, fmt.Errorf("want a duration such as 10s or 1m30s, have %q", *text))
	}
	return d, nil
}

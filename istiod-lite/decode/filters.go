package decode

import (
	"errors"
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// filterReader reads the filters of one rule or backend. What can't be had is a problem, since the rest of the route may
// still hold; what can't be meant is an error.
type filterReader struct {
	namespace, path string
	filters         model.Filters
	problem         *model.Problem
}

func (f *filterReader) at(i int) string { return fmt.Sprintf("%s[%d]", f.path, i) }

// http reads a filter of an HTTPRoute.
func (f *filterReader) http(i int, o *gatewayv1.HTTPRouteFilter) error {
	switch o.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		return f.headers(f.at(i)+".requestHeaderModifier", &f.filters.RequestHeaders, o.RequestHeaderModifier)
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		return f.headers(f.at(i)+".responseHeaderModifier", &f.filters.ResponseHeaders, o.ResponseHeaderModifier)
	case gatewayv1.HTTPRouteFilterRequestMirror:
		return f.mirror(f.at(i)+".requestMirror", o.RequestMirror)
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		return f.redirect(f.at(i)+".requestRedirect", o.RequestRedirect)
	case gatewayv1.HTTPRouteFilterURLRewrite:
		return f.rewrite(f.at(i)+".urlRewrite", o.URLRewrite)
	case gatewayv1.HTTPRouteFilterCORS:
		return f.cors(f.at(i)+".cors", o.CORS)
	case gatewayv1.HTTPRouteFilterExtensionRef:
		f.extension(i)
	default:
		f.problem = first(f.problem, unsupported(fmt.Sprintf("filter %s at %s is not supported: leave it out", o.Type, f.at(i))))
	}
	return nil
}

// grpc reads a filter of a GRPCRoute.
func (f *filterReader) grpc(i int, o *gatewayv1.GRPCRouteFilter) error {
	switch o.Type {
	case gatewayv1.GRPCRouteFilterRequestHeaderModifier:
		return f.headers(f.at(i)+".requestHeaderModifier", &f.filters.RequestHeaders, o.RequestHeaderModifier)
	case gatewayv1.GRPCRouteFilterResponseHeaderModifier:
		return f.headers(f.at(i)+".responseHeaderModifier", &f.filters.ResponseHeaders, o.ResponseHeaderModifier)
	case gatewayv1.GRPCRouteFilterRequestMirror:
		return f.mirror(f.at(i)+".requestMirror", o.RequestMirror)
	case gatewayv1.GRPCRouteFilterExtensionRef:
		f.extension(i)
	default:
		f.problem = first(f.problem, unsupported(fmt.Sprintf("filter %s at %s is not supported: leave it out", o.Type, f.at(i))))
	}
	return nil
}

// ofBackend is what was read of a backend's filters; those that answer by themselves can't be there.
func (f *filterReader) ofBackend() (model.Filters, *model.Problem) {
	if f.filters.Redirect != nil || f.filters.CORS != nil {
		f.problem = first(f.problem, unsupported("filters of type RequestRedirect and CORS are for rules, not for backends: "+f.path))
	}
	return f.filters, f.problem
}

func (f *filterReader) extension(i int) {
	f.problem = first(f.problem, &model.Problem{
		Condition: model.ResolvedRefs, Reason: "InvalidKind",
		Message: fmt.Sprintf("no kind of filter is known that %s.extensionRef could name: leave it out", f.at(i)),
	})
}

var (
	errNoFilter = errors.New("missing, though the filter's type asks for it")
	errTwice    = errors.New("a filter of this type is there twice")
)

// framing are the headers that say where a message ends or what its connection is, so waypoints let no route change them.
var framing = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-connection": true, "transfer-encoding": true, "upgrade": true, "te": true, "trailer": true, "content-length": true,
}

func (f *filterReader) headers(path string, into **model.HeaderChange, o *gatewayv1.HTTPHeaderFilter) error {
	switch {
	case o == nil:
		return at(path, errNoFilter)
	case *into != nil:
		return at(path, errTwice)
	}
	change := &model.HeaderChange{}
	seen := map[string]bool{}
	name := func(path, text string) (string, error) {
		lower := strings.ToLower(text)
		if lower == "" || strings.ContainsAny(lower, " :\t\r\n") || seen[lower] {
			return "", at(path, fmt.Errorf("header %q is empty, malformed, or there twice", text))
		}
		seen[lower] = true
		return lower, nil
	}
	changeable := func(path, lower string, set bool) {
		if framing[lower] || lower == "host" && !set {
			f.problem = first(f.problem, unsupported(fmt.Sprintf("header %s at %s can't be changed so by a route: leave it out", lower, path)))
		}
	}
	for _, list := range []struct {
		name    string
		headers []gatewayv1.HTTPHeader
		into    *[]model.Header
	}{{"set", o.Set, &change.Set}, {"add", o.Add, &change.Add}} {
		clear(seen)
		for i, header := range list.headers {
			lower, err := name(fmt.Sprintf("%s.%s[%d].name", path, list.name, i), string(header.Name))
			if err != nil {
				return err
			}
			if strings.ContainsFunc(header.Value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				return at(fmt.Sprintf("%s.%s[%d].value", path, list.name, i), fmt.Errorf("%q has a control character", header.Value))
			}
			changeable(path, lower, list.name == "set")
			*list.into = append(*list.into, model.Header{Name: lower, Value: header.Value})
		}
	}
	clear(seen)
	for i, text := range o.Remove {
		lower, err := name(fmt.Sprintf("%s.remove[%d]", path, i), text)
		if err != nil {
			return err
		}
		changeable(path, lower, false)
		change.Remove = append(change.Remove, lower)
	}
	*into = change
	return nil
}

func (f *filterReader) mirror(path string, o *gatewayv1.HTTPRequestMirrorFilter) error {
	if o == nil {
		return at(path, errNoFilter)
	}
	backend, err := backendObject(f.namespace, path+".backendRef", &o.BackendRef)
	if err != nil {
		return err
	}
	numerator, denominator := int32(1), int32(1)
	switch {
	case o.Percent != nil && o.Fraction != nil:
		return at(path, errors.New("percent and fraction exclude each other"))
	case o.Percent != nil:
		numerator, denominator = *o.Percent, 100
	case o.Fraction != nil:
		numerator, denominator = o.Fraction.Numerator, or(o.Fraction.Denominator, 100)
	}
	if numerator < 0 || denominator < 1 || numerator > denominator {
		return at(path, fmt.Errorf("%d of %d is no share", numerator, denominator))
	}
	f.filters.Mirrors = append(f.filters.Mirrors, model.Mirror{Backend: backend, Numerator: uint32(numerator), Denominator: uint32(denominator)})
	return nil
}

func (f *filterReader) redirect(path string, o *gatewayv1.HTTPRequestRedirectFilter) error {
	switch {
	case o == nil:
		return at(path, errNoFilter)
	case f.filters.Redirect != nil:
		return at(path, errTwice)
	}
	r := &model.Redirect{Scheme: strings.ToLower(or(o.Scheme, "")), Hostname: string(or(o.Hostname, "")), Status: 302}
	switch r.Scheme {
	case "", "http", "https":
	default:
		return at(path+".scheme", fmt.Errorf("%q is not known: use http or https", r.Scheme))
	}
	if o.StatusCode != nil {
		switch *o.StatusCode {
		case 301, 302, 303, 307, 308:
			r.Status = uint16(*o.StatusCode)
		default:
			return at(path+".statusCode", fmt.Errorf("%d redirects nobody: use 301, 302, 303, 307 or 308", *o.StatusCode))
		}
	}
	var err error
	if o.Port != nil {
		if r.Port, err = port(path+".port", int64(*o.Port)); err != nil {
			return err
		}
	}
	r.Path, err = pathChange(path+".path", o.Path)
	f.filters.Redirect = r
	return err
}

func (f *filterReader) rewrite(path string, o *gatewayv1.HTTPURLRewriteFilter) error {
	switch {
	case o == nil:
		return at(path, errNoFilter)
	case f.filters.Rewrite != nil:
		return at(path, errTwice)
	}
	change, err := pathChange(path+".path", o.Path)
	f.filters.Rewrite = &model.Rewrite{Hostname: string(or(o.Hostname, "")), Path: change}
	return err
}

func pathChange(path string, o *gatewayv1.HTTPPathModifier) (*model.PathChange, error) {
	if o == nil {
		return nil, nil
	}
	with := func(field, value string) error {
		if strings.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c == '?' || c == '#' || c == 0x7f }) {
			return at(path+"."+field, fmt.Errorf("%q is no path", value))
		}
		return nil
	}
	switch o.Type {
	case gatewayv1.FullPathHTTPPathModifier:
		change := &model.PathChange{Value: or(o.ReplaceFullPath, "/")}
		return change, with("replaceFullPath", change.Value)
	case gatewayv1.PrefixMatchHTTPPathModifier:
		change := &model.PathChange{Prefix: true, Value: or(o.ReplacePrefixMatch, "/")}
		return change, with("replacePrefixMatch", change.Value)
	}
	return nil, at(path+".type", fmt.Errorf("%q is not known: use ReplaceFullPath or ReplacePrefixMatch", o.Type))
}

func (f *filterReader) cors(path string, o *gatewayv1.HTTPCORSFilter) error {
	switch {
	case o == nil:
		return at(path, errNoFilter)
	case f.filters.CORS != nil:
		return at(path, errTwice)
	}
	c := &model.CORS{Credentials: or(o.AllowCredentials, false), MaxAgeSeconds: o.MaxAge}
	if c.MaxAgeSeconds == 0 {
		c.MaxAgeSeconds = 5 // the Gateway API's default
	}
	for _, origin := range o.AllowOrigins {
		c.Origins = append(c.Origins, string(origin))
	}
	for _, method := range o.AllowMethods {
		c.Methods = append(c.Methods, string(method))
	}
	for _, header := range o.AllowHeaders {
		c.Headers = append(c.Headers, strings.ToLower(string(header)))
	}
	for _, header := range o.ExposeHeaders {
		c.Expose = append(c.Expose, strings.ToLower(string(header)))
	}
	f.filters.CORS = c
	return nil
}

package h2c

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

var (
	errHost      = errors.New("host and :authority differ, or are none")
	errPath      = errors.New(":path is none")
	errScheme    = errors.New(":scheme is neither http nor https")
	errManyField = errors.New("too many fields")
	errBadLength = errors.New("a content-length that is no number of bytes, or several")
	errTrailer   = errors.New("a trailer that only a head may have")
	errProtocol  = errors.New("CONNECT for HTTP, whose requests nobody would look into")
	errConnect   = errors.New("CONNECT, which only proxies for clients serve")
)

// parseRequest makes a request of fields whose pseudo fields the core has checked. Length is what content-length says.
func parseRequest(fields []hpack.HeaderField, req *exchange.Request) error {
	req.Version, req.Length = exchange.HTTP2, exchange.UnknownLength
	for len(fields) > 0 && fields[0].IsPseudo() {
		switch f := fields[0]; f.Name {
		case ":method":
			req.Method = f.Value
		case ":scheme":
			req.Scheme = strings.ToLower(f.Value)
		case ":authority":
			req.Authority = f.Value
		case ":path":
			req.Path = f.Value
		case ":protocol":
			req.Upgrade = strings.ToLower(f.Value)
		}
		fields = fields[1:]
	}
	switch {
	case req.Upgrade != "":
		if req.Method, req.Upgrade = "GET", exchange.Upgrade(req.Upgrade); req.Upgrade == "" {
			return errProtocol
		}
	case req.Method == "CONNECT":
		return errConnect
	}
	regular, err := parseFields(fields, req.Fields, &req.Length)
	if err != nil {
		return err
	}
	if req.Fields, err = takeHost(regular, &req.Authority); err != nil {
		return err
	}
	switch {
	case !exchange.ValidAuthority(req.Authority):
		return errHost
	case !exchange.ValidPath(req.Path) && !(req.Path == "*" && req.Method == "OPTIONS"):
		return errPath
	case req.Scheme != "http" && req.Scheme != "https":
		return errScheme
	}
	req.Fields = joinCookies(req.Fields)
	if req.Upgrade != "" {
		return upgrade(req)
	}
	return nil
}

// upgrade makes of an extended CONNECT (RFC 8441) what HTTP/1.1 would have said. WebSockets' key is only known there, where the server's answer to it
// proves that it isn't from a cache: here streams do.
func upgrade(req *exchange.Request) error {
	if req.Length >= 0 {
		return errBadLength
	}
	if req.Upgrade == webSocket {
		var key [16]byte
		_, _ = rand.Read(key[:]) // never fails
		req.Fields = exchange.Set(req.Fields, webSocketKey, base64.StdEncoding.EncodeToString(key[:]))
	}
	return nil
}

const (
	webSocket       = "websocket"
	webSocketKey    = "sec-websocket-key"
	webSocketAccept = "sec-websocket-accept"
)

// takeHost takes host out of the fields; it has to say what the authority does, and stands for it if there is none (RFC 9113 section 8.3.1).
func takeHost(fields []exchange.Field, authority *string) ([]exchange.Field, error) {
	kept := fields[:0]
	for _, f := range fields {
		if f.Name != "host" {
			kept = append(kept, f)
			continue
		}
		if *authority != "" && f.Value != *authority {
			return nil, errHost
		}
		*authority = f.Value
	}
	return kept, nil
}

// joinCookies makes one field of the pieces that a cookie may come in (RFC 9113 section 8.2.3).
func joinCookies(fields []exchange.Field) []exchange.Field {
	first, several := -1, false
	for i := range fields {
		if fields[i].Name == "cookie" {
			several = first >= 0
			if several {
				break
			}
			first = i
		}
	}
	if !several {
		return fields
	}
	kept := fields[:first+1]
	for _, f := range fields[first+1:] {
		if f.Name == "cookie" {
			kept[first].Value += "; " + f.Value
		} else {
			kept = append(kept, f)
		}
	}
	return kept
}

// parseFields appends regular fields to dst, and takes content-length out of them. White space around a value, which isn't allowed and which
// some send all the same, is taken off as HTTP/1 does, so that the next hop can't see another value than we.
func parseFields(fields []hpack.HeaderField, dst []exchange.Field, length *int64) ([]exchange.Field, error) {
	if len(fields) > maxFields {
		return nil, errManyField
	}
	for _, f := range fields {
		if f.Name != "content-length" {
			dst = append(dst, exchange.Field{Name: f.Name, Value: strings.Trim(f.Value, " \t")})
			continue
		}
		n, ok := exchange.ParseLength(f.Value)
		if !ok || *length >= 0 {
			return nil, errBadLength
		}
		*length = n
	}
	return dst, nil
}

// parseTrailers makes trailers of regular fields.
func parseTrailers(fields []hpack.HeaderField) ([]exchange.Field, error) {
	length := int64(exchange.UnknownLength)
	trailers, err := parseFields(fields, nil, &length)
	if err != nil {
		return nil, err
	}
	if _, host := exchange.Get(trailers, "host"); host || length >= 0 { // RFC 9110 section 6.5.1
		return nil, errTrailer
	}
	return trailers, nil
}

// parseResponse makes an answer of fields that the core has checked. Length is what content-length says.
func parseResponse(fields []hpack.HeaderField, r *exchange.Response) (err error) {
	r.Version, r.Length = exchange.HTTP2, exchange.UnknownLength
	r.Status, _ = strconv.Atoi(fields[0].Value) // three digits
	r.Fields, err = parseFields(fields[1:], r.Fields, &r.Length)
	return err
}

// appendFields appends fields as they are sent. A value with a control character, which a filter may have set, is an error: the peer would refuse it.
func appendFields(dst []hpack.HeaderField, fields []exchange.Field) ([]hpack.HeaderField, error) {
	for i := range fields {
		f := &fields[i]
		if !exchange.ValidValue(f.Value) {
			return nil, errors.New("a field's value has control characters: " + f.Name)
		}
		dst = append(dst, hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: !worthKeeping(f.Name)})
	}
	return dst, nil
}

// worthKeeping tells whether a field goes into the table of those that were sent before: not what must be kept secret (RFC 7541 section 7.1.3),
// nor what differs each time.
func worthKeeping(name string) bool {
	switch name {
	case "authorization", "cookie", "set-cookie", "traceparent", "x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "date", "etag":
		return false
	}
	return true
}

func appendLength(dst []hpack.HeaderField, length int64) []hpack.HeaderField {
	return append(dst, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(length, 10)})
}

// statusText is a status as a field has it, without making a string of the most frequent.
func statusText(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	}
	return strconv.Itoa(status)
}

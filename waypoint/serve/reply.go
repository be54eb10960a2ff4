package serve

import (
	"errors"
	"net/url"
	"strconv"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
)

// The response flags of requests, as Envoy has them.
const (
	flagNoRoute    = "NR"
	flagNoEndpoint = "UH"
	flagConnect    = "UF"
	flagBroken     = "UC"
	flagTimeout    = "UT"
	flagOverflow   = "UO"
	flagClientGone = "DC"
	flagProtocol   = "DPE"
)

// What clients are told, in Istio's words.
const (
	textNoEndpoint = "no healthy upstream"
	textConnect    = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
	textBroken     = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
	textOverflow   = "upstream connect error or disconnect/reset before headers. reset reason: overflow"
	textTimeout    = "upstream request timeout"
	textDenied     = "RBAC: access denied"
)

var (
	errTimeout = errors.New("the time for it is over")
	errRetried = errors.New("it is tried again")
)

// reply is an answer of the waypoint's own.
type reply struct {
	head *exchange.Response
	body string
}

// answer answers the request in place of a server: with a status, Envoy's flag for it if there is one, a text, and the reason for the log.
func (r *request) answer(status int, flag, text, why string) {
	res := &exchange.Response{Version: exchange.HTTP11, Status: status, Length: int64(len(text))}
	if text != "" {
		res.Fields = append(res.Fields, exchange.Field{Name: "content-type", Value: "text/plain"})
	}
	if r.grpc {
		r.grpcStatus = strconv.Itoa(grpcStatus(status))
		res = &exchange.Response{Version: exchange.HTTP11, Status: 200, Length: 0, Fields: []exchange.Field{
			{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: r.grpcStatus},
		}}
		if text != "" {
			res.Fields = append(res.Fields, exchange.Field{Name: "grpc-message", Value: url.PathEscape(text)})
			text = ""
		}
	}
	if flag != "" {
		r.flags = flag
	}
	if r.routed {
		r.hit.Answered(nil, res)
	}
	r.reply = &reply{res, text}
	r.give(why)
}

// unproven answers a request whose token isn't valid.
func (r *request) unproven(refusal *jwt.Refusal) {
	r.answer(refusal.Status, "", refusal.Reason, refusal.Reason)
	if refusal.Challenge != "" {
		r.reply.head.Fields = append(r.reply.head.Fields, exchange.Field{Name: "www-authenticate", Value: refusal.Challenge})
	}
}

// answerWith answers with a head alone, as the rule has made it.
func (r *request) answerWith(res *exchange.Response, why string) {
	r.reply = &reply{head: res}
	r.give(why)
}

// give has the reply given at the end of the turn, when the Handler has returned.
func (r *request) give(why string) {
	r.details = why
	r.task.Run = r.speak
	r.session.handler.cfg.Worker.Output(&r.task)
}

// speak gives the reply, unless the client has gone meanwhile.
func (r *request) speak() {
	if r.ended {
		return
	}
	r.code, r.answered, r.sent = r.reply.head.Status, true, uint64(len(r.reply.body))
	r.end()
	body := r.reply.body
	r.client.Respond(r.reply.head)
	if body != "" && r.head.Method != "HEAD" {
		r.client.Data([]byte(body))
	}
	r.client.End(nil)
}

// ownStatus is what a server's grpc-status means to clients: one that isn't gRPC's own is UNKNOWN. There may be no end of others, so they aren't counted
// one by one.
func ownStatus(text string) string {
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || n > 16 { // UNAUTHENTICATED
		n = 2
	}
	return strconv.Itoa(int(n)) // which isn't a part of the server's head, as text is
}

// grpcStatus is as gRPC maps the statuses of HTTP.
func grpcStatus(status int) int {
	switch status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 500, 502, 503, 504: // a backend that can't be used is a 500
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

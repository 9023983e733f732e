# frozen_string_literal: true

require_relative "helper"

class APITest < Minitest::Test
  include ScriptedServers

  QUEUED = '{"status":"queued","id":"bc86961b","nodes":2}'
  NEWS = { kind: "news" }.freeze

  def header(request, name)
    request.first[/^#{name}: (.*?)\r$/i, 1]
  end

  def test_publishes
    api, requests = api_of(answer(200, QUEUED), key: "rhk_secret")
    result = api.publish(NEWS, { title: "hé" })
    assert_equal ["bc86961b", 2, nil, false], result.to_a
    request = take(requests)
    assert_equal '{"pattern":{"kind":"news"},"payload":{"title":"hé"}}', request.last.force_encoding("UTF-8")
    assert_equal "Bearer rhk_secret", header(request, "authorization")
    assert_equal "application/json", header(request, "content-type")
    assert_match(/\A\h{32}\z/, header(request, "idempotency-key"))
    refute_includes api.inspect, "secret"
  end

  def test_a_text_is_passed_on_byte_for_byte
    api, requests = api_of(answer(200, QUEUED))
    api.publish(NEWS, json: '{"a":1.0,  "a":12345678901234567890123}')
    assert_includes take(requests).last, ',"payload":{"a":1.0,  "a":12345678901234567890123}}'
  end

  def test_tries_again_by_the_same_key_what_was_not_published
    busy = answer(429, '{"code":"rate-limited","detail":"slow down"}', "Retry-After": 0)
    away = answer(503, '{"code":"unavailable","detail":"away"}', "Retry-After": 0)
    api, requests = api_of(busy, away, answer(200, QUEUED))
    assert_equal 2, api.publish(NEWS, nil).nodes
    keys = Array.new(3) { header(take(requests), "idempotency-key") }
    assert_equal 1, keys.uniq.size
  end

  def test_does_not_try_again_what_is_unclear_if_that_is_turned_off
    away = answer(503, '{"code":"unavailable","detail":"away"}')
    [nil, away, answer(200, QUEUED)[0..-5], "garbage\r\n\r\n"].each do |lost|
      api, requests = api_of(lost, answer(200, QUEUED), retry_unclear: false)
      assert_raises(Realizehit::PublishUnclear, lost) { api.publish(NEWS, 1) }
      take(requests)
      assert_empty requests
    end
  end

  def test_tries_again_by_the_same_key_what_may_have_been_published
    api, requests = api_of(nil, answer(503, "{}"), answer(200, QUEUED))
    assert_equal "bc86961b", api.publish(NEWS, 1, key: "order-17").id
    assert_equal(%w[order-17] * 3, Array.new(3) { header(take(requests), "idempotency-key") })
  end

  def test_an_error_after_a_lost_answer_does_not_say_that_nothing_was_published
    api, requests = api_of(nil, *Array.new(2) { answer(503, "{}", "Retry-After": 0) })
    assert_raises(Realizehit::PublishUnclear) { api.publish(NEWS, 1) }
    3.times { take(requests) }
  end

  def test_what_may_be_published_is_not_sent_again_when_its_key_may_be_forgotten
    api, requests = api_of(nil, answer(503, "{}", "Retry-After": 61), answer(200, QUEUED), timeout: 100)
    assert_raises(Realizehit::PublishUnclear) { api.publish(NEWS, 1) }
    2.times { take(requests) }
    assert_empty requests
  end

  def test_an_answer_that_does_not_come_in_time_is_unclear
    released = Thread::Queue.new
    port = serve(->(_socket) { released.pop })
    api = Realizehit::API.new("http://127.0.0.1:#{port}/", timeout: 0.2, retry_unclear: false)
    assert_raises(Realizehit::PublishUnclear) { api.publish(NEWS, 1) }
    released << nil
  end

  def test_a_server_that_is_not_there_is_unavailable
    port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
    api = Realizehit::API.new("http://127.0.0.1:#{port}/", backoff_base: 0.001)
    error = assert_raises(Realizehit::Unavailable) { api.publish(NEWS, 1) }
    assert_equal "unavailable", error.code
  end

  def test_a_long_retry_after_is_not_waited_for
    api, = api_of(answer(503, '{"code":"unavailable","detail":"away"}', "Retry-After": 86_400))
    error = assert_raises(Realizehit::Unavailable) { api.publish(NEWS, 1) }
    assert_in_delta 86_400, error.retry_after
  end

  def test_errors_are_named_by_meaning
    {
      [401, "not-authenticated"] => Realizehit::NotAuthenticated, [403, "forbidden"] => Realizehit::Forbidden,
      [413, "too-large"] => Realizehit::TooLarge, [400, "bad-pattern"] => Realizehit::BadPattern,
      [400, "of-a-later-version"] => Realizehit::Rejected, [403, ""] => Realizehit::Forbidden
    }.each do |(status, code), type|
      api, = api_of(answer(status, JSON.generate(code:, detail: "as the test says")))
      error = assert_raises(type) { api.publish(NEWS, 1) }
      assert_equal [status, code, "as the test says"], [error.status, error.code, error.message]
    end
  end

  def test_an_error_page_is_an_error
    api, = api_of(answer(502, "<h1>\xff</h1>"))
    error = assert_raises(Realizehit::Rejected) { api.publish(NEWS, 1) }
    assert_equal [502, "", "the server answered with the status 502"], [error.status, error.code, error.message]
  end

  def test_what_is_refused_before_it_is_sent
    api = Realizehit::API.new("http://127.0.0.1:1/")
    deep = 1200.times.reduce([]) { |list, _| [list] }
    assert_equal "bad-json", assert_raises(Realizehit::Rejected) { api.publish(NEWS, json: '{"a":') }.code
    assert_equal "bad-json", assert_raises(Realizehit::Rejected) { api.publish(NEWS, json: "\"\xff\"") }.code
    [Float::NAN, "\xff", deep].each do |payload|
      assert_equal "bad-request", assert_raises(Realizehit::Rejected) { api.publish(NEWS, payload) }.code
    end
    assert_raises(Realizehit::Rejected) { api.publish(NEWS) }
    assert_raises(Realizehit::Rejected) { api.publish(NEWS, 1, key: "é") }
    assert_raises(Realizehit::BadPattern) { api.publish("news", 1) }
    assert_raises(Realizehit::BadPattern) { api.publish({ a: "\xff" }, 1) }
  end

  def test_many_have_an_outcome_each
    results = [{ status: "queued", id: "bc86961b", nodes: 1 }, { status: "error", code: "bad-pattern", detail: "no" }]
    api, requests = api_of(answer(200, JSON.generate(results:)))
    outcomes = api.publish_many(
      [{ pattern: NEWS, payload: 1 }, { pattern: {}, payload: 2 }, { pattern: NEWS, json: "{" }, "no message"]
    )
    assert_equal [true, false, false, false], outcomes.map(&:published?)
    assert_equal 1, outcomes.first.result.nodes
    assert_instance_of Realizehit::BadPattern, outcomes[1].error
    assert_equal %w[bad-json bad-request], outcomes[2..].map(&:error).map(&:code)
    head, body = take(requests)
    assert head.start_with?("POST /batch ")
    assert_match(/\A{"messages":\[{"pattern":{"kind":"news"},"payload":1,"key":"\h{32}"},/, body)
  end

  def test_nothing_is_sent_after_a_batch_whose_answer_was_lost
    api, requests = api_of(nil, answer(200, QUEUED), retry_unclear: false)
    outcomes = api.publish_many(Array.new(10_001) { { pattern: NEWS, payload: 1 } })
    assert_instance_of Realizehit::PublishUnclear, outcomes.first.error
    assert_instance_of Realizehit::Unavailable, outcomes.last.error
    take(requests)
    assert_empty requests
  end

  def test_large_batches_are_divided
    api, requests = api_of(*Array.new(2) { answer(200, JSON.generate(results: [{ status: "queued" }] * 2)) })
    messages = ([1_500_000] * 4).push(5 << 20).map { |size| { pattern: NEWS, json: JSON.generate("x" * size) } }
    outcomes = api.publish_many(messages)
    assert_equal [true, true, true, true, false], outcomes.map(&:published?)
    assert_instance_of Realizehit::TooLarge, outcomes.last.error
    2.times { assert_operator take(requests).last.bytesize, :<, 4 << 20 }
  end

  def test_history
    messages = '[{"payload":{"a":1},"at":"k3f09a2c.17"}]'
    body = "{\"id\":\"bc86961b\",\"at\":\"k3f09a2c.17\",\"first\":9,\"more\":false,\"messages\":#{messages}}"
    api, requests = api_of(answer(200, body), answer(404, "{}"))
    history = api.history(NEWS, last: 1)
    assert_equal([[{ "a" => 1 }, "k3f09a2c.17", nil]], history.map(&:to_a))
    assert_equal ["k3f09a2c.17", 9, nil, false], [history.at, history.first_offset, history.recovered, history.more]
    assert take(requests).first.start_with?("GET /history?pat=%7B%22kind%22%3A%22news%22%7D&last=1 ")
    assert_equal 404, assert_raises(Realizehit::Rejected) { api.history(NEWS, since: "k3f09a2c.1") }.status
    assert_raises(ArgumentError) { api.history(NEWS) }
  end

  def test_addresses_and_keys_that_cannot_be_used
    ["", "127.0.0.1:80", "ws://a/", "http://", "http://user:word@host/", "http://a b/"].each do |url|
      assert_raises(ArgumentError, url) { Realizehit::API.new(url) }
    end
    error = assert_raises(ArgumentError) { Realizehit::API.new("http://a/", key: "sec\nret") }
    refute_includes error.message, "sec"
  end

  def test_open_closes
    api = Realizehit::API.open("http://127.0.0.1:1/") { |each| each }
    assert_instance_of Realizehit::API, api
  end
end

# frozen_string_literal: true

require "json"
require "securerandom"
require "uri"

require_relative "backoff"
require_relative "errors"
require_relative "http_pool"
require_relative "json_text"
require_relative "pattern"

module Realizehit
  # What became of a publication.
  #
  # id:: the pattern's label on the wire
  # nodes:: how many subscribing servers the broker reached, not how many clients
  # at:: the message's position, if the pattern has a history; else nil
  # duplicate:: whether a message with the same idempotency key was published before
  Result = Struct.new(:id, :nodes, :at, :duplicate, keyword_init: true)

  # What became of one message of {API#publish_many}: one of result and error is nil.
  Outcome = Struct.new(:result, :error, keyword_init: true) do
    # @return [Boolean] whether the message was published
    def published?
      error.nil?
    end
  end

  # A message of the history.
  #
  # payload:: decoded
  # position:: its position
  # pattern:: what it was published to, if the history is that of a pattern with wildcards; else nil
  Stored = Struct.new(:payload, :position, :pattern, keyword_init: true)

  # A part of the messages that the server keeps for a pattern. It is Enumerable over the messages, the oldest first.
  #
  # id:: the pattern's label on the wire
  # at:: the position of the last message that the server has
  # first_offset:: the offset of the oldest message that the server keeps
  # recovered:: of `since`: whether nothing after the position is missing; else nil
  # more:: whether there are further messages; ask again with the position of the last one
  # messages:: an array of {Stored}
  History = Struct.new(:id, :at, :first_offset, :recovered, :more, :messages, keyword_init: true) do
    include Enumerable

    def each(&)
      messages.each(&)
    end
  end

  # Publishes over HTTP. Several threads may use one; each request has a connection of its own, which is kept.
  #
  # Every publication has an idempotency key, so that the server publishes a repeated one once. A request is tried three
  # times in all: again if the server could not be reached or the answer was lost, and after 429 and 503.
  class API
    # How often a request is sent at most.
    TRIES = 3
    # How many messages one request of {#publish_many} has at most.
    BATCH_MESSAGES = 10_000
    # How many bytes of messages one request of {#publish_many} has at most.
    BATCH_BYTES = (4 << 20) - 64
    MAX_ANSWER = 64 << 20
    MAX_BACKOFF = 5
    # Seconds after the first try within which a message that may be published is sent again. Servers keep its key for
    # two minutes.
    REPEAT_WITHIN = 60
    NONE = Object.new.freeze
    LOST = [
      SystemCallError, IOError, SocketError, Net::ReadTimeout, Net::WriteTimeout, OpenSSL::SSL::SSLError,
      Net::ProtocolError, Net::HTTPBadResponse, Net::HTTPHeaderSyntaxError, Zlib::Error
    ].freeze
    private_constant :MAX_ANSWER, :MAX_BACKOFF, :REPEAT_WITHIN, :NONE, :LOST

    # Makes a client and, with a block, yields it and closes it.
    def self.open(...)
      api = new(...)
      return api unless block_given?

      begin
        yield api
      ensure
        api.close
      end
    end

    # @param url [String] the address of the API with its prefix, "http://127.0.0.1:8080/"
    # @param key [String, nil] the API key
    # @param timeout [Numeric] seconds for connecting, for sending, and for the answer of each try; also the longest
    #   wait that a server can ask for
    # @param backoff_base [Numeric] the first bound of the delay before a retry, in seconds
    # @param retry_unclear [Boolean] whether to try again when the message may have been published: the answer was lost,
    #   or was a 503 without Retry-After. False is for servers that do not keep idempotency keys and could publish twice
    # @param ca_file [String, nil] a file of certificates to trust instead of the system's
    # @raise [ArgumentError] if the address or the key cannot be used
    def initialize(url, key: nil, timeout: 10, backoff_base: 0.25, retry_unclear: true, ca_file: nil)
      @uri = API.checked(url)
      raise ArgumentError, "the API key has a character that is not visible ASCII" if key && !key.match?(/\A[!-~]+\z/)

      @key = key
      @timeout = timeout
      @backoff_base = backoff_base
      @retry_unclear = retry_unclear
      @pool = HTTPPool.new(@uri, timeout:, ca_file:)
    end

    # @api private
    def self.checked(url)
      uri = URI.parse(url)
      unless uri.is_a?(URI::HTTP) && uri.host && uri.userinfo.nil? && uri.query.nil?
        raise ArgumentError, "the address of the API is not of the form http://host:port/"
      end

      uri.path = "#{uri.path.chomp('/')}/"
      uri.freeze
    rescue URI::InvalidURIError
      raise ArgumentError, "the address of the API is not of the form http://host:port/"
    end

    # Publishes one message.
    #
    #   api.publish({ kind: "news" }, { title: "hello" })
    #   api.publish({ kind: "news" }, json: '{"title": "hello"}')  # passed on byte for byte
    #
    # @param pattern [Hash, Pattern]
    # @param payload [Object] what JSON.generate can write
    # @param json [String] a payload that is JSON already, in place of `payload`
    # @param key [String] an idempotency key of up to 64 visible ASCII characters; one is made if it is left out
    # @return [Result]
    # @raise [Error] {PublishUnclear} if it is not known whether the message was published
    def publish(pattern, payload = NONE, json: nil, key: nil)
      body = encode(pattern, payload, json)
      answer = send_request("POST", "", body: "{#{body}}", key: checked_key(key))
      result_of(answer)
    end

    # Publishes messages in order, by batches of up to 10,000 messages or 4 MiB.
    #
    # A message that is refused does not affect the others. After a batch that could not be sent, or whose answer was
    # lost, the rest is not sent.
    #
    # @param messages [Enumerable<Hash>] each with `pattern:`, `payload:` or `json:`, and perhaps `key:`
    # @return [Array<Outcome>] one for each message
    def publish_many(messages)
      batches = Batches.new(BATCH_MESSAGES, BATCH_BYTES) { |items, outcomes| send_batch(items, outcomes) }
      messages.each do |message|
        batches.add { "{#{encode(*message_fields(message))},\"key\":#{JSON.generate(checked_key(message[:key]))}}" }
      end
      batches.finish
    end

    # Returns messages of a pattern that has a history, the oldest first. Give `last`, a number, or `since`, a position.
    #
    # @return [History]
    # @raise [Rejected] with the code no-history if no rule of the server keeps a history of the pattern
    def history(pattern, last: nil, since: nil)
      raise ArgumentError, "give one of last and since" if last.nil? == since.nil?

      query = { "pat" => Pattern.of(pattern).to_json, **(last ? { "last" => last } : { "since" => since }) }
      answer = send_request("GET", "history?#{URI.encode_www_form(query)}")
      messages = answer["messages"]
      raise Rejected, "the history is not understood" unless messages.is_a?(Array)

      stored = messages.map do |each|
        Stored.new(payload: each["payload"], position: each["at"], pattern: each["pattern"])
      end
      History.new(id: answer["id"], at: answer["at"], first_offset: answer["first"], recovered: answer["recovered"],
                  more: answer["more"] == true, messages: stored)
    end

    # Closes the connections that are kept.
    def close
      @pool.close
    end

    # Shows the address and not the key.
    def inspect
      "#<#{self.class} #{@uri}>"
    end

    private

    def message_fields(message)
      raise refused("a message is a Hash, not a #{message.class}") unless message.is_a?(Hash)

      [message[:pattern], message.fetch(:payload, NONE), message[:json]]
    end

    # Returns the members of a publication's JSON object.
    def encode(pattern, payload, json)
      raise refused("give one of payload and json") if payload.equal?(NONE) == json.nil?

      "\"pattern\":#{pattern_json(pattern)},\"payload\":#{json ? checked_json(json) : payload_json(payload)}"
    end

    # The server judges the filters, so that a newer one may accept more.
    def pattern_json(pattern)
      unless [Hash, Pattern].any? { |type| pattern.is_a?(type) }
        raise BadPattern, "a pattern is a Hash of filters, not a #{pattern.class}"
      end

      JSONText.generate(pattern)
    rescue JSON::GeneratorError, JSON::NestingError, EncodingError => e
      raise BadPattern, "the pattern cannot be written as JSON: #{e.message}"
    end

    def payload_json(payload)
      JSONText.generate(payload)
    rescue JSON::GeneratorError, JSON::NestingError, EncodingError => e
      raise refused("the payload cannot be written as JSON: #{e.message}")
    end

    def refused(text, code = "bad-request")
      Rejected.new(text, code:)
    end

    def checked_json(text)
      utf8 = text.encode(Encoding::UTF_8)
      raise refused("the payload is not UTF-8", "bad-json") unless utf8.valid_encoding?

      JSONText.parse(utf8)
      utf8
    rescue JSON::ParserError, EncodingError
      raise refused("the payload is not JSON", "bad-json")
    end

    def checked_key(key)
      return SecureRandom.hex(16) if key.nil?
      return key if key.is_a?(String) && key.match?(/\A[!-~]{1,64}\z/)

      raise refused("an idempotency key has 1 to 64 visible ASCII characters")
    end

    def send_batch(items, outcomes)
      answer = send_request("POST", "batch", body: "{\"messages\":[#{items.join(',')}]}")
      results = answer["results"]
      unless results.is_a?(Array) && results.size == items.size
        raise PublishUnclear, "the answer to a batch has not one result for each message"
      end

      outcomes.zip(results) { |outcome, result| fill(outcome, result) }
      nil
    rescue Error => e
      outcomes.each { |outcome| outcome.error = e }
      e if e.is_a?(Unavailable) || e.is_a?(PublishUnclear)
    end

    def fill(outcome, result)
      if result["status"] == "queued"
        outcome.result = result_of(result)
      else
        outcome.error = Refusal.error(result["detail"].to_s, code: result["code"].to_s)
      end
    end

    def result_of(answer)
      Result.new(id: answer["id"], nodes: answer["nodes"], at: answer["at"],
                 duplicate: answer["duplicate"] == true).freeze
    end

    # Sends a request until it is answered for good.
    def send_request(method, path, body: nil, key: nil)
      delays = Backoff.new(@backoff_base, MAX_BACKOFF)
      start = now
      tries = 0
      unclear = nil
      begin
        tries += 1
        attempt(method, path, body, key)
      rescue Unavailable, RateLimited, PublishUnclear => e
        unclear = e if e.is_a?(PublishUnclear)
        delay = (e.retry_after || 0) + delays.next
        # A try that published nothing does not say that an earlier one did not.
        raise unclear || e if tries == TRIES || final?(e) || (unclear && now - start + delay > REPEAT_WITHIN)

        sleep(delay)
        retry
      end
    end

    def final?(error)
      (error.is_a?(PublishUnclear) && !@retry_unclear) || (error.retry_after || 0) > @timeout
    end

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end

    def attempt(method, path, body, key)
      status, answer, retry_after = exchange(method, path, body, key)
      return understood(method, answer) if (200..299).cover?(status)

      error = Refusal.of_answer(status, answer, retry_after)
      raise error unless status == 503 && method == "POST" && error.retry_after.nil?

      # The server says Retry-After where it published nothing.
      raise PublishUnclear.new(error.message, code: error.code, status:)
    end

    def exchange(method, path, body, key)
      sent = false
      @pool.with do |http|
        sent = true
        request = Net::HTTPGenericRequest.new(method, !body.nil?, true, @uri.path + path, headers(body, key))
        request.body = body
        response = http.request(request) { |read| limit(read) }
        [response.code.to_i, response.body.to_s.force_encoding(Encoding::UTF_8), response["Retry-After"]]
      end
    rescue Error
      raise
    rescue Errno::ECONNREFUSED, Net::OpenTimeout => e # also of a connection that was made anew
      unreachable(e)
    rescue *LOST => e
      sent && method == "POST" ? unclear(e) : unreachable(e)
    end

    # Reads an answer up to a bound.
    def limit(response)
      text = +""
      response.read_body do |chunk|
        text << chunk
        raise IOError, "the answer has more than #{MAX_ANSWER} bytes" if text.bytesize > MAX_ANSWER
      end
      response.body = text
    end

    def headers(body, key)
      headers = { "Accept" => "application/json", "Accept-Encoding" => "identity", "Host" => host }
      headers["User-Agent"] = "realizehit-ruby/#{VERSION}"
      headers["Content-Type"] = "application/json" if body
      headers["Authorization"] = "Bearer #{@key}" if @key
      headers["Idempotency-Key"] = key if key
      headers
    end

    def host
      @uri.port == @uri.default_port ? @uri.host : "#{@uri.host}:#{@uri.port}"
    end

    def understood(method, answer)
      read = JSON.parse(answer)
      return read if read.is_a?(Hash)

      raise JSON::ParserError, "not an object"
    rescue JSON::ParserError => e
      method == "POST" ? unclear(e) : raise(Rejected, "the answer is not understood: #{e.message}")
    end

    def unreachable(error)
      raise Unavailable.new("the server cannot be reached: #{error.message}", code: "unavailable")
    end

    def unclear(error)
      raise PublishUnclear.new("the answer did not come: #{error.message}", code: "unavailable")
    end

    # Gathers messages into batches, and keeps an outcome for each.
    class Batches
      def initialize(most_items, most_bytes, &send_batch)
        @most_items = most_items
        @most_bytes = most_bytes
        @send_batch = send_batch
        @all = []
        @broken = nil
        clear
      end

      # Adds the message that the block returns; an {Error} that it raises is the message's outcome.
      def add
        outcome = Outcome.new
        @all << outcome
        item = yield
        if item.bytesize > @most_bytes
          raise TooLarge.new("the message has #{item.bytesize} bytes, at most #{@most_bytes} are allowed",
                             code: "too-large")
        end

        flush if @items.size == @most_items || @bytes + item.bytesize + 1 > @most_bytes
        put(item, outcome)
      rescue Error => e
        outcome.error = e
      end

      def finish
        flush
        @all
      end

      private

      def put(item, outcome)
        if @broken
          raise Unavailable.new("not sent, since an earlier batch failed: #{@broken.message}", code: "unavailable")
        end

        @items << item
        @outcomes << outcome
        @bytes += item.bytesize + 1
      end

      def flush
        return if @items.empty?

        @broken = @send_batch.call(@items, @outcomes)
        clear
      end

      def clear
        @items = []
        @outcomes = []
        @bytes = 0
      end
    end
    private_constant :Batches
  end
end

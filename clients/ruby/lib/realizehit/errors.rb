# frozen_string_literal: true

module Realizehit
  # The base class of all errors of this gem, except ArgumentError for arguments that no call can be made with.
  class Error < StandardError
    # @return [String] the stable code of the server, such as "forbidden"; empty if there is none
    attr_reader :code
    # @return [Integer, nil] the HTTP status, or the close code of a WebSocket
    attr_reader :status
    # @return [Float, nil] how many seconds the server asks to wait
    attr_reader :retry_after

    # @param message [String] a text for people
    def initialize(message = nil, code: "", status: nil, retry_after: nil)
      super(message)
      @code = code
      @status = status
      @retry_after = retry_after
    end
  end

  # A pattern breaks a rule; the message names the filter.
  class BadPattern < Error
    def initialize(message = nil, code: "bad-pattern", **rest) = super
  end

  # The key or token does not allow this.
  class Forbidden < Error; end
  # The key or token is missing or not valid.
  class NotAuthenticated < Error; end
  # There were too many requests.
  class RateLimited < Error; end
  # The message or the request is too large.
  class TooLarge < Error; end
  # The server or its broker cannot be reached now, and nothing was published; the same request may work later.
  class Unavailable < Error; end
  # The answer was lost, so it is not known whether the message was published.
  class PublishUnclear < Error; end
  # The server refused the request for another reason; {Error#code} says which.
  class Rejected < Error; end
  # The server closed the connection, or it was lost.
  class Disconnected < Error; end
  # The server did not answer an action in time.
  class ResponseTimeout < Error; end
  # The token function failed.
  class TokenFailed < Error; end
  # The client was closed.
  class Closed < Error; end

  # The payload of a message is not JSON.
  class BadPayload < Error
    def initialize(message = nil, code: "bad-json", **rest) = super
  end

  # Chooses the class of an error by the server's code or status.
  module Refusal
    CODES = {
      "bad-pattern" => BadPattern, "wildcard-unsupported" => BadPattern, "forbidden" => Forbidden,
      "not-authenticated" => NotAuthenticated, "rate-limited" => RateLimited, "too-large" => TooLarge,
      "unavailable" => Unavailable, "too-many-connections" => Unavailable
    }.freeze
    STATUSES = {
      401 => NotAuthenticated, 403 => Forbidden, 413 => TooLarge, 429 => RateLimited, 503 => Unavailable
    }.freeze
    private_constant :CODES, :STATUSES

    module_function

    # @return [Error] the error for what a server refused
    def error(text, code: "", status: nil, retry_after: nil)
      (CODES[code] || STATUSES[status] || Rejected).new(text, code:, status:, retry_after:)
    end

    # Reads the problem document of an HTTP answer.
    #
    # @param body [String] its body, JSON or anything else
    # @param retry_after [String, nil] its header Retry-After
    def of_answer(status, body, retry_after)
      document = parse(body)
      detail = document["detail"]
      detail = "the server answered with the status #{status}" unless detail.is_a?(String) && !detail.empty?
      code = document["code"].is_a?(String) ? document["code"] : ""
      seconds = retry_after.to_f if retry_after.to_s.match?(/\A\d{1,9}\z/)
      error(detail, code:, status:, retry_after: seconds)
    end

    def parse(body)
      document = JSON.parse(body)
      document.is_a?(Hash) ? document : {}
    rescue JSON::ParserError, EncodingError
      {}
    end
    private_class_method :parse
  end
  private_constant :Refusal
end

# frozen_string_literal: true

require_relative "backoff"

module Realizehit
  # Sends a fresh token before the old one ends, on a thread of its own, since the token function may take its time.
  #
  # @api private
  class Renewal
    # The part of the time that is left after which the function is called: clients whose tokens end together do not ask
    # together.
    PART = (0.25..0.5)
    private_constant :PART

    # @param authenticate [#call] sends a token on a connection
    # @param wait [#call] waits so many seconds, and returns whether the connection is still there
    # @param told [#call] tells an error
    def initialize(options, authenticate, wait, told)
      @options = options
      @authenticate = authenticate
      @wait = wait
      @told = told
      @thread = nil
    end

    # Begins, unless it is under way.
    #
    # @param seconds [Numeric] after which the token ends
    def begin(connection, seconds)
      return if @thread&.alive?

      @thread = Thread.new { renew(connection, seconds * Random.rand(PART)) }
      @thread.name = "realizehit renewal"
    end

    # Waits until it is done.
    def join
      @thread&.join
    end

    # Whether its thread is the one that asks.
    def current?
      @thread == Thread.current
    end

    private

    # However many attempts that takes, until the connection is lost.
    def renew(connection, delay)
      delays = Backoff.new(@options.backoff_base, @options.backoff_cap)
      while @wait.call(connection, delay)
        begin
          return @authenticate.call(connection, @options.current_token)
        rescue Error => e
          @told.call(@options.on_error, e) if @wait.call(connection, 0)
          delay = delays.next
        end
      end
    end
  end
  private_constant :Renewal
end

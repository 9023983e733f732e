# frozen_string_literal: true

module Realizehit
  # Calls the functions of the program one after another, in the order in which they were added, on a thread of its own.
  #
  # @api private
  class Events
    MOST = 4096
    private_constant :MOST

    # @param logger [Logger] is told about functions that raise
    def initialize(logger)
      @logger = logger
      @waiting = Thread::Queue.new
      @thread = Thread.new { run }
      @thread.name = "realizehit events"
    end

    # Adds a call. If the program does not return from earlier ones, the oldest that wait are dropped.
    #
    # @param function [#call, nil] nothing is called if it is nil
    def add(function, *arguments)
      return if function.nil?

      @waiting.pop(true) if @waiting.size >= MOST
      @waiting.push([function, arguments])
    rescue ClosedQueueError, ThreadError
      nil # the client has ended, or the thread took the oldest one meanwhile
    end

    # Ends the thread once everything that was added before has been called.
    def close
      @waiting.close
    end

    # Waits until that is done.
    def join
      @thread.join
    end

    # Whether its thread is the one that asks.
    def current?
      @thread == Thread.current
    end

    # Calls a function of the program; one that raises is logged.
    def guard
      yield
    rescue StandardError, ScriptError => e
      @logger.error("realizehit: a function that the program gave has raised #{e.class}: #{e.message}")
    end

    private

    def run
      while (call = @waiting.pop)
        guard { call.first.call(*call.last) }
      end
    end
  end
  private_constant :Events
end
